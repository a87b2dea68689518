// Depthwise convolutions of one block of channels: a filter is a list of weights and of distances in vectors.
//
// What is read has a border of zeros, so no tap has to be looked at twice. With kernel, dilation and stride reduced to
// distances, one loop serves every convolution and its two gradients. A few pixels at a time keep their sums in
// registers; each tap's weight is loaded once for all of them. The usual filters have loops of their own (window.hpp),
// which add up the same products in the same order.
#pragma once

#include "lanes.hpp"
#include "window.hpp"

// Sums of PIXELS neighbouring results, of which neighbours read STEP vectors apart.
template <int PIXELS, int STEP>
inline void filter_pixels(Vector* sums, const Vector* in, const Index* distances, const Vector* weights, int taps) {
  Vector s[PIXELS];
  for (int p = 0; p < PIXELS; p++) s[p] = Vector{};
  for (int t = 0; t < taps; t++) {
    const Vector weight = weights[t];
    const Vector* at = in + distances[t];
    for (int p = 0; p < PIXELS; p++) add_product(s[p], weight, at[p * STEP]);
  }
  for (int p = 0; p < PIXELS; p++) sums[p] = s[p];
}

// One row of `columns` results, handed on as finish(x, sum).
template <int STEP, class Finish>
inline void filter_row(const Vector* in, const Index* distances, const Vector* weights, int taps, int columns,
                       Finish finish) {
  Vector s[AT_ONCE];
  int x = 0;
  auto run = [&]<int PIXELS>(std::integral_constant<int, PIXELS>) {
    filter_pixels<PIXELS, STEP>(s, in + x * STEP, distances, weights, taps);
    for (int p = 0; p < PIXELS; p++) finish(x + p, s[p]);
    x += PIXELS;
  };
  while (columns - x >= AT_ONCE) run(std::integral_constant<int, AT_ONCE>());
  if (columns - x >= 4) run(std::integral_constant<int, 4>());
  if (columns - x >= 2) run(std::integral_constant<int, 2>());
  if (columns - x >= 1) run(std::integral_constant<int, 1>());
}

// A plane with a border of zeros.
struct Padded {
  Index height, width;  // without the border
  Index border;

  Index pitch() const { return width + 2 * border; }
  Index size() const { return (height + 2 * border) * pitch(); }
  Index at(Index y, Index x) const { return (y + border) * pitch() + x + border; }
};

// fill(y, x) inside, zero outside.
template <class Fill>
inline void fill_padded(Vector* out, const Padded& shape, Fill fill) {
  const Index rim = shape.border * shape.pitch() + shape.border;
  for (Index i = 0; i < rim; i++) out[i] = Vector{};
  out += rim;
  for (Index y = 0; y < shape.height; y++) {
    for (Index x = 0; x < shape.width; x++) out[x] = fill(y, x);
    out += shape.width;
    const Index gap = y + 1 < shape.height ? 2 * shape.border : rim;
    for (Index i = 0; i < gap; i++) out[i] = Vector{};
    out += gap;
  }
}

constexpr int MOST_TAPS = 15 * 15;

// A depthwise filter in pixels: tap (i, j) reads the pixel at `origin + (i - kernel / 2) * dilation` from a position.
struct Filter {
  int kernel, dilation, origin, stride;

  int taps() const { return kernel * kernel; }
  Index shift(int i) const { return origin + (i - kernel / 2) * Index(dilation); }
  Index reach() const { return (kernel / 2) * Index(dilation) + origin; }

  // Distances of all taps from the place in `in` of the position that is read.
  void distances(const Padded& in, Index* found) const {
    for (int i = 0; i < kernel; i++)
      for (int j = 0; j < kernel; j++) found[i * kernel + j] = shift(i) * in.pitch() + shift(j);
  }
};

// Rows [first, last) of a convolution's output, handed on as finish(y, x, value).
template <class Finish>
inline void convolve(const Filter& filter, const Vector* weights, const Vector* in, const Padded& shape, Index first,
                     Index last, Index columns, Finish finish) {
  Index distances[MOST_TAPS];
  filter.distances(shape, distances);
  const bool known = filter.stride == 1 && is_window(filter.kernel, filter.dilation);
  for (Index y = first; y < last; y++) {
    const Vector* row = in + shape.at(y * filter.stride, 0);
    auto finish_row = [&](Index x, Vector v) { finish(y, x, v); };
    if (known)
      filter_windows<1>(filter.kernel, filter.dilation, row + distances[0], shape.pitch(), weights, columns, finish_row,
                        [&](Index x) { filter_row<1>(row + x, distances, weights, filter.taps(), int(columns - x),
                                                     [&](Index i, Vector v) { finish(y, x + i, v); }); });
    else if (filter.stride == 1)
      filter_row<1>(row, distances, weights, filter.taps(), columns, finish_row);
    else
      filter_row<2>(row, distances, weights, filter.taps(), columns, finish_row);
  }
}

// The border that the gradient of a convolution's output needs for `convolve_back`.
inline Index border_back(const Filter& filter) { return (filter.reach() + filter.stride - 1) / filter.stride + 1; }

// The gradient of what a convolution reads, `height` times `width`, from that of its output in `in`, handed on as
// finish(y, x, value). With stride 2, pixels of each parity have taps of their own.
template <class Finish>
inline void convolve_back(const Filter& filter, const Vector* weights, const Vector* in, const Padded& shape,
                          Index height, Index width, Finish finish) {
  Index distances[MOST_TAPS];
  Vector chosen[MOST_TAPS];
  const int stride = filter.stride;
  const bool known = stride == 1 && is_window(filter.kernel, filter.dilation);
  for (int above = 0; above < stride; above++)
    for (int left = 0; left < stride; left++) {
      int taps = 0;
      for (int i = 0; i < filter.kernel; i++)
        for (int j = 0; j < filter.kernel; j++) {
          const Index y = above - filter.shift(i), x = left - filter.shift(j);
          if (y % stride || x % stride) continue;
          distances[taps] = y / stride * shape.pitch() + x / stride;
          chosen[taps++] = weights[i * filter.kernel + j];
        }
      for (Index y = above; y < height; y += stride) {
        const Vector* row = in + shape.at(y / stride, 0);
        auto rest = [&](Index begin) {
          filter_row<1>(row + begin, distances, chosen, taps, int((width - left + stride - 1) / stride - begin),
                        [&](Index x, Vector v) { finish(y, (begin + x) * stride + left, v); });
        };
        if (known)
          filter_windows<-1>(filter.kernel, filter.dilation, row + distances[0], shape.pitch(), weights, width,
                             [&](Index x, Vector v) { finish(y, x, v); }, rest);
        else
          rest(0);
      }
    }
}

template <int TAPS, int STEP>
inline void correlate_taps(Vector* sums, const Vector* in, const Padded& shape, const Index* distances,
                           const Vector* d, const Padded& d_shape) {
  Index of[TAPS];
  Vector total[TAPS];
  for (int t = 0; t < TAPS; t++) of[t] = distances[t], total[t] = Vector{};
  for (Index y = 0; y < d_shape.height; y++) {
    const Vector* u = in + shape.at(y * STEP, 0);
    const Vector* row = d + d_shape.at(y, 0);
    Vector s[TAPS];
    for (int t = 0; t < TAPS; t++) s[t] = Vector{};
    for (Index x = 0; x < d_shape.width; x++) {
      const Vector v = row[x];
      for (int t = 0; t < TAPS; t++) add_product(s[t], v, u[of[t] + x * STEP]);
    }
    for (int t = 0; t < TAPS; t++) total[t] += s[t];  // rows apart: sums of few numbers round less
  }
  for (int t = 0; t < TAPS; t++) sums[t] += total[t];
}

// Adds the gradient of a filter's weights, from what it read and the gradient `d` of what it put out.
inline void correlate(const Filter& filter, Vector* sums, const Vector* in, const Padded& shape, const Vector* d,
                      const Padded& d_shape) {
  Index distances[MOST_TAPS];
  filter.distances(shape, distances);
  if (filter.stride == 1 && is_window(filter.kernel, filter.dilation))
    return correlate_windows(filter.kernel, filter.dilation, sums, in + shape.at(0, 0) + distances[0], shape.pitch(),
                             d + d_shape.at(0, 0), d_shape.pitch(), d_shape.height, d_shape.width);
  // The square of an odd number is 1 more than a multiple of 8
  int t = 0;
  auto run = [&]<int TAPS>(std::integral_constant<int, TAPS>) {
    if (filter.stride == 1)
      correlate_taps<TAPS, 1>(sums + t, in, shape, distances + t, d, d_shape);
    else
      correlate_taps<TAPS, 2>(sums + t, in, shape, distances + t, d, d_shape);
    t += TAPS;
  };
  if (filter.taps() % 8 == 1 && filter.taps() > 1) run(std::integral_constant<int, 9>());
  while (filter.taps() - t >= 8) run(std::integral_constant<int, 8>());
  while (filter.taps() - t >= 1) run(std::integral_constant<int, 1>());
}
