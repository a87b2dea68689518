// 3x3 pools of a state, and the 2x2 maximum of channels that pass by a strided cell.
#pragma once

#include "cell.hpp"

// finish(y, x, highest, position, average, count) for every pixel of a pool's output. `position` is the place of the
// first maximum in the window, 3 * row + column; NaN is higher than anything, as in PyTorch.
template <class Finish>
inline void pool(const Vector* in, const State& state, Index out_height, Index out_width, Finish finish) {
  for (Index y = 0; y < out_height; y++)
    for (Index x = 0; x < out_width; x++) {
      const Index top = y * state.stride - 1, left = x * state.stride - 1;
      Vector highest = all(-std::numeric_limits<Real>::infinity()), sum = {};
      Mask position = {};
      int count = 0;
      for (int i = top < 0; i < 3 && top + i < state.height; i++)
        for (int j = left < 0; j < 3 && left + j < state.width; j++) {
          const Vector v = in[(top + i) * state.width + left + j];
          const Mask higher = (v > highest) | (v != v);
          highest = higher ? v : highest;
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

// The pixel of a state that passes by at (y, x) of the output: itself, or the first maximum of its 2x2 window.
inline Index passing_pixel(const State& state, Index image, Index y, Index x, Index channel, Real* value) {
  const Real* base = state.base + image * state.image() + channel;
  if (state.stride == 1) {
    const Index pixel = y * state.width + x;
    *value = base[pixel * state.pitch];
    return pixel;
  }
  Index found = 2 * y * state.width + 2 * x;
  Real highest = -std::numeric_limits<Real>::infinity();
  for (Index i = 2 * y; i < std::min(2 * y + 2, state.height); i++)
    for (Index j = 2 * x; j < std::min(2 * x + 2, state.width); j++) {
      const Real v = base[(i * state.width + j) * state.pitch];
      if (v > highest || v != v) highest = v, found = i * state.width + j;
    }
  *value = highest;
  return found;
}
