// 1x1 convolutions of one group of images: products of [pixels, channels] with [channels, channels].
//
// Planes lie block of channels after block of channels. Filters are rows of vectors, `w[in * blocks + out block]`; with
// several images in a vector, each row is repeated for each of them.
#pragma once

#include "lanes.hpp"

template <int PIXELS, int OUT>
inline void multiply_pixels(Vector* z, Index z_plane, const Vector* t, Index t_plane, const Vector* w, int blocks) {
  Vector s[PIXELS][OUT];
  for (int p = 0; p < PIXELS; p++)
    for (int o = 0; o < OUT; o++) s[p][o] = Vector{};
  for (int b = 0; b < blocks; b++, t += t_plane, w += BLOCK * Index(blocks))
    for_each<BLOCK>([&](auto channel) {
      for (int p = 0; p < PIXELS; p++) {
        const Vector v = spread<channel>(t + p);
        for (int o = 0; o < OUT; o++) add_product(s[p][o], v, w[channel * blocks + o]);
      }
    });
  for (int p = 0; p < PIXELS; p++)
    for (int o = 0; o < OUT; o++) z[o * z_plane + p] = s[p][o];
}

template <int OUT>
inline void multiply_blocks(Vector* z, Index z_plane, const Vector* t, Index t_plane, Index pixels, const Vector* w,
                            int blocks) {
  Index x = 0;
  auto run = [&]<int PIXELS>(std::integral_constant<int, PIXELS>) {
    multiply_pixels<PIXELS, OUT>(z + x, z_plane, t + x, t_plane, w, blocks);
    x += PIXELS;
  };
  while (pixels - x >= AT_ONCE) run(std::integral_constant<int, AT_ONCE>());
  if (pixels - x >= 4) run(std::integral_constant<int, 4>());
  if (pixels - x >= 2) run(std::integral_constant<int, 2>());
  if (pixels - x >= 1) run(std::integral_constant<int, 1>());
}

// z = t w for `pixels` pixels of all blocks.
inline void multiply(Vector* z, Index z_plane, const Vector* t, Index t_plane, Index pixels, const Vector* w,
                     int blocks) {
  int o = 0;
  if constexpr (BLOCK == LANES)
    for (; o + 2 <= blocks; o += 2)
      multiply_blocks<2>(z + o * z_plane, z_plane, t, t_plane, pixels, w + o, blocks);
  for (; o < blocks; o++) multiply_blocks<1>(z + o * z_plane, z_plane, t, t_plane, pixels, w + o, blocks);
}

template <int ROWS, int OUT>
inline void outer_rows(Vector* sums, const Vector* t, const Vector* dz, Index dz_plane, Index pixels, int first,
                       int blocks) {
  Vector s[ROWS][OUT];
  for (int r = 0; r < ROWS; r++)
    for (int o = 0; o < OUT; o++) s[r][o] = Vector{};
  for (Index x = 0; x < pixels; x++) {
    Vector d[OUT];
    for (int o = 0; o < OUT; o++) d[o] = dz[o * dz_plane + x];
    if constexpr (BLOCK == LANES) {
      for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUT; o++) add_product(s[r][o], all(lane(t + x, first + r)), d[o]);
    } else {
      for_each<ROWS>([&](auto row) {
        const Vector v = spread<row>(t + x);
        for (int o = 0; o < OUT; o++) add_product(s[row][o], v, d[o]);
      });
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int o = 0; o < OUT; o++) sums[(first + r) * Index(blocks) + o] += s[r][o];
}

// Adds the gradient of a 1x1 filter, `sums[in * blocks + out block]`, of one group of images.
inline void outer(Vector* sums, const Vector* t, Index t_plane, const Vector* dz, Index dz_plane, Index pixels,
                  int blocks) {
  constexpr Index few = 512;  // sums of few numbers round less
  for (Index x = 0; x < pixels; x += few) {
    const Index n = pixels - x < few ? pixels - x : few;
    for (int b = 0; b < blocks; b++) {
      Vector* rows = sums + b * BLOCK * Index(blocks);
      const Vector* tb = t + b * t_plane + x;
      int o = 0;
      if constexpr (BLOCK == LANES) {
        constexpr int ROWS = BLOCK < AT_ONCE ? BLOCK : AT_ONCE;
        for (; o + 2 <= blocks; o += 2)
          for (int first = 0; first < BLOCK; first += ROWS)
            outer_rows<ROWS, 2>(rows + o, tb, dz + o * dz_plane + x, dz_plane, n, first, blocks);
      }
      for (; o < blocks; o++)
        outer_rows<BLOCK, 1>(rows + o, tb, dz + o * dz_plane + x, dz_plane, n, 0, blocks);
    }
  }
}
