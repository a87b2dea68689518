// Depthwise filters of the usual sizes, whose loops the compiler unrolls: what neighbouring pixels read is loaded once for
// all of them and stays in registers. That needs as many registers as AVX-512 has; numbers with a tangent need more.
#pragma once

#include "lanes.hpp"

constexpr int WINDOW = AT_ONCE;  // pixels at a time

inline bool is_window(int kernel, int dilation) {
  return sizeof(Vector) == 64 && (kernel == 3 || kernel == 5) && dilation <= 2;
}

// run(kernel, dilation) with constants.
template <class Run>
inline void with_window(int kernel, int dilation, Run run) {
  using std::integral_constant;
  if (kernel == 3 && dilation == 1) run(integral_constant<int, 3>(), integral_constant<int, 1>());
  if (kernel == 3 && dilation == 2) run(integral_constant<int, 3>(), integral_constant<int, 2>());
  if (kernel == 5 && dilation == 1) run(integral_constant<int, 5>(), integral_constant<int, 1>());
  if (kernel == 5 && dilation == 2) run(integral_constant<int, 5>(), integral_constant<int, 2>());
}

// Sums of WINDOW neighbouring results, whose first one reads `in` with the filter's first tap. Taps go on in the
// direction of SIGN, rows are `step` apart.
template <int KERNEL, int DILATION, int SIGN>
inline void filter_window(Vector* sums, const Vector* in, Index step, const Vector* weights) {
  Vector s[WINDOW];
  for_each<WINDOW>([&](auto p) { s[p] = Vector{}; });
  for (int i = 0; i < KERNEL; i++, in += step, weights += KERNEL) {
    constexpr int COLUMNS = WINDOW + (KERNEL - 1) * DILATION, FIRST = SIGN > 0 ? 0 : (KERNEL - 1) * DILATION;
    Vector u[COLUMNS];
    for_each<COLUMNS>([&](auto c) { u[c] = in[c - FIRST]; });
    for_each<KERNEL>([&](auto j) {
      const Vector weight = weights[j];
      for_each<WINDOW>([&](auto p) { add_product(s[p], weight, u[FIRST + p + SIGN * j * DILATION]); });
    });
  }
  for_each<WINDOW>([&](auto p) { sums[p] = s[p]; });
}

// One row of `columns` results, handed on as finish(x, sum); rest(x) has to compute those from x on.
template <int SIGN, class Finish, class Rest>
inline void filter_windows(int kernel, int dilation, const Vector* in, Index pitch, const Vector* weights, Index columns,
                           Finish finish, Rest rest) {
  Index x = 0;
  with_window(kernel, dilation, [&](auto k, auto d) {
    Vector s[WINDOW];
    for (; columns - x >= WINDOW; x += WINDOW) {
      filter_window<k, d, SIGN>(s, in + x, SIGN * d * pitch, weights);
      for (int p = 0; p < WINDOW; p++) finish(x + p, s[p]);
    }
  });
  if (x < columns) rest(x);
}

// Adds to the sums of ROWS rows of taps what PIXELS pixels contribute.
template <int KERNEL, int DILATION, int ROWS, int PIXELS>
inline void correlate_window(Vector (&s)[ROWS * KERNEL], const Vector* in, Index step, const Vector* d) {
  Vector v[PIXELS];
  for_each<PIXELS>([&](auto p) { v[p] = d[p]; });
  for_each<PIXELS + (KERNEL - 1) * DILATION>([&](auto c) {
    for_each<ROWS>([&](auto i) {
      const Vector u = in[i * step + c];
      for_each<KERNEL>([&](auto j) {
        constexpr int p = c - j * DILATION;
        if constexpr (p >= 0 && p < PIXELS) add_product(s[i * KERNEL + j], u, v[p]);
      });
    });
  });
}

template <int KERNEL, int DILATION, int ROWS>
inline void correlate_rows(Vector* sums, const Vector* in, Index pitch, const Vector* d, Index d_pitch, Index height,
                           Index width) {
  Vector total[ROWS * KERNEL] = {};
  for (Index y = 0; y < height; y++, in += pitch, d += d_pitch) {
    Vector s[ROWS * KERNEL] = {};
    Index x = 0;
    auto run = [&]<int PIXELS>(std::integral_constant<int, PIXELS>) {
      correlate_window<KERNEL, DILATION, ROWS, PIXELS>(s, in + x, DILATION * pitch, d + x);
      x += PIXELS;
    };
    while (width - x >= WINDOW) run(std::integral_constant<int, WINDOW>());
    while (width - x >= 1) run(std::integral_constant<int, 1>());
    for (int t = 0; t < ROWS * KERNEL; t++) total[t] += s[t];  // rows apart: sums of few numbers round less
  }
  for (int t = 0; t < ROWS * KERNEL; t++) sums[t] += total[t];
}

// Adds the gradient of a filter's weights, whose first tap reads `in` at the first pixel.
inline void correlate_windows(int kernel, int dilation, Vector* sums, const Vector* in, Index pitch, const Vector* d,
                              Index d_pitch, Index height, Index width) {
  with_window(kernel, dilation, [&](auto k, auto distance) {
    correlate_rows<k, distance, 3>(sums, in, pitch, d, d_pitch, height, width);
    if constexpr (k > 3)
      correlate_rows<k, distance, k - 3>(sums + 3 * k, in + 3 * distance * pitch, pitch, d, d_pitch, height, width);
  });
}
