// The vector that everything is computed in, and how a few channels of several images share one.
//
// A vector has LANES numbers. With at least as many channels, its lanes are BLOCK = LANES neighbouring channels of one
// pixel. With fewer, they are BLOCK channels (a power of two) of the same pixel in LANES / BLOCK images, so that no lane
// is idle and every shift of a convolution remains a whole number of vectors.
//
// REAL (float or double) and CHANNELS (4, 8 or 16: how many there are about) are given to the compiler. With DUAL, every
// number carries a tangent (dual.hpp), and the code that computes a function computes its derivative along a direction
// as well.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

using Number = REAL;
constexpr int LANES = VECTOR_BYTES / sizeof(Number);
constexpr int BLOCK = CHANNELS < LANES ? CHANNELS : LANES;

typedef Number Numbers __attribute__((vector_size(VECTOR_BYTES)));
typedef decltype(Numbers() < Numbers()) Mask;  // integers as wide as a number: all bits set where a comparison holds

using Index = std::ptrdiff_t;

inline Numbers zero_unless(Mask keep, Numbers v) {
  Mask bits;
  std::memcpy(&bits, &v, sizeof v);
  bits &= keep;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
inline Numbers choose(Mask which, Numbers a, Numbers b) { return which ? a : b; }
inline void add_product(Numbers& sum, Numbers a, Numbers b) { sum += a * b; }

#ifdef DUAL
#include "dual.hpp"
#else
using Real = Number;
using Vector = Numbers;
using Image = Real*;
using ConstImage = const Real*;

inline Vector all(Real value) { return Vector{} + value; }
inline Real lane(const Vector* v, Index i) { return reinterpret_cast<const Real*>(v)[i]; }
template <class F>
inline Vector each(Vector v, F f) {
  return f(v);
}

inline void put(Image to, Index i, Real value) { to[i] = value; }

// What f makes of an image; f of a vector and an image.
template <class F>
inline Vector of_image(ConstImage at, F f) {
  return f(at);
}
template <class F>
inline void to_image(Vector v, Image at, F f) {
  f(v, at);
}

// The first `count` lanes from memory, the others zero; and the way back.
template <class Count>
inline Vector from_lanes(const Real* at, Count count) {
  Vector v = {};
  std::memcpy(&v, at, count * sizeof(Real));
  return v;
}
template <class Count>
inline void to_lanes(Vector v, Real* at, Count count) {
  std::memcpy(at, &v, count * sizeof(Real));
}
#endif

using AllLanes = std::integral_constant<Index, LANES>;

// As many results at a time as leave their sums in registers.
constexpr int AT_ONCE = 8 * VECTOR_BYTES / sizeof(Vector);

// PyTorch's ReLU, which lets NaN through.
inline Vector rectified(Vector v) { return zero_unless(~(v <= Vector{}), v); }

#if defined(__clang__) || __GNUC__ >= 12
template <int CHANNEL, int... LANE>
inline Numbers spread_in_blocks(Numbers v, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(v, v, (LANE / BLOCK * BLOCK + CHANNEL)...);
}
#else
template <int CHANNEL, int... LANE>
inline Numbers spread_in_blocks(Numbers v, std::integer_sequence<int, LANE...>) {
  return __builtin_shuffle(v, Mask{(LANE / BLOCK * BLOCK + CHANNEL)...});
}
#endif

// One channel of every image in the vector at v, in all lanes of that image.
template <int CHANNEL>
inline Vector spread(const Vector* v) {
  if constexpr (BLOCK == LANES) {
    return all(lane(v, CHANNEL));
  } else {
    return each(*v, [](Numbers part) { return spread_in_blocks<CHANNEL>(part, std::make_integer_sequence<int, LANES>()); });
  }
}

// f(0), ..., f(N - 1) with constants.
template <int N, class F>
inline void for_each(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>()), ...); }
  (std::make_integer_sequence<int, N>());
}
