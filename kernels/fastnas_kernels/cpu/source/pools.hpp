// 3x3 pools of a state, and the 2x2 maxima of channels that pass by a strided cell.
#pragma once

#include "cell.hpp"

// finish(y, x, highest, position, average, count) for every pixel of a pool's output. `position` is the place of the
// first maximum in the window, 3 * row + column; NaN is higher than anything, as in PyTorch.
template <class Finish>
inline void pool(const Vector* in, const State& state, Index out_height, Index out_width, Finish finish) {
  for (Index y = 0; y < out_height; y++)
    for (Index x = 0; x < out_width; x++) {
      const Index top = y * state.stride - 1, left = x * state.stride - 1;
      Vector highest = all(-std::numeric_limits<Number>::infinity()), sum = {};
      Mask position = {};
      int count = 0;
      for (int i = top < 0; i < 3 && top + i < state.height; i++)
        for (int j = left < 0; j < 3 && left + j < state.width; j++) {
          const Vector v = in[(top + i) * state.width + left + j];
          const Mask higher = (v > highest) | (v != v);
          highest = choose(higher, v, highest);
          position = higher ? Mask{} + (3 * i + j) : position;
          sum += v;
          count++;
        }
      finish(y, x, highest, position, sum / all(Real(count)), count);
    }
}

// Adds to `dx` what the gradients of both pools' outputs are for their input.
template <class Gradient>
inline void pool_back(const Vector* in, const State& state, Index out_height, Index out_width, Vector* dx,
                      Gradient gradient) {
  pool(in, state, out_height, out_width,
       [&](Index y, Index x, Vector highest, Mask position, Vector average, int count) {
         Vector dmax, daverage;
         gradient(y, x, highest, average, &dmax, &daverage);
         daverage /= all(Real(count));
         const Index top = y * state.stride - 1, left = x * state.stride - 1;
         for (int i = top < 0; i < 3 && top + i < state.height; i++)
           for (int j = left < 0; j < 3 && left + j < state.width; j++)
             dx[(top + i) * state.width + left + j] +=
                 daverage + zero_unless(position == Mask{} + (3 * i + j), dmax);
       });
}

// The first maximum of a 2x2 window of `count` channels, and where it is (0 to 3).
template <class Count>
inline void pool_window(const State& state, ConstImage in, Index rows, Index columns, Count count, Real* highest,
                        Real* position) {
  Vector best = {}, where = {};
  for (Index i = 0; i < rows; i++)
    for (Index j = 0; j < columns; j++) {
      const Vector v = from_lanes(in + (i * state.width + j) * state.pitch, count);
      const Mask higher = i + j ? (v > best) | (v != v) : ~Mask{};
      best = choose(higher, v, best);
      where = choose(higher, all(Real(2 * i + j)), where);
    }
  to_lanes(best, highest, count);
  to_lanes(where, position, count);
}

// The same for one line of the channels that pass by a strided cell.
inline void pool_line(const State& state, Index image, Index y, Index columns, Index channels, Real* highest,
                      Real* position) {
  const ConstImage line = state.base + (image * state.image() + 2 * y * state.width * state.pitch);
  for (Index x = 0; x < columns; x++, highest += channels, position += channels) {
    const ConstImage in = line + 2 * x * state.pitch;
    const Index right = std::min<Index>(2, state.width - 2 * x), down = std::min<Index>(2, state.height - 2 * y);
    Index q = 0;
    for (; q + LANES <= channels; q += LANES)
      pool_window(state, in + q, down, right, AllLanes(), highest + q, position + q);
    if (q < channels) pool_window(state, in + q, down, right, channels - q, highest + q, position + q);
  }
}

template <class In>
inline void add_scaled(Real* out, Real factor, In in, Index count) {
  for (Index i = 0; i < count; i++) out[i] += factor * in[i];
}
