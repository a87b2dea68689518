// The vector that everything is computed in, and how a few channels of several images share one.
//
// A vector has LANES numbers. With at least as many channels, its lanes are BLOCK = LANES neighbouring channels of one
// pixel. With fewer, they are BLOCK channels (a power of two) of the same pixel in LANES / BLOCK images, so that no lane
// is idle and every shift of a convolution remains a whole number of vectors.
//
// REAL (float or double) and CHANNELS (4, 8 or 16: how many there are about) are given to the compiler.
#pragma once

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

using Real = REAL;
constexpr int LANES = VECTOR_BYTES / sizeof(Real);
constexpr int BLOCK = CHANNELS < LANES ? CHANNELS : LANES;

typedef Real Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef decltype(Vector() < Vector()) Mask;  // integers as wide as Real: all bits set where a comparison holds

using Index = std::ptrdiff_t;

inline Vector all(Real value) { return Vector{} + value; }

inline Vector zero_unless(Mask keep, Vector v) {
  Mask bits;
  std::memcpy(&bits, &v, sizeof v);
  bits &= keep;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// PyTorch's ReLU, which lets NaN through.
inline Vector rectified(Vector v) { return zero_unless(~(v <= Vector{}), v); }

#if defined(__clang__) || __GNUC__ >= 12
template <int CHANNEL, int... LANE>
inline Vector spread_in_blocks(Vector v, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(v, v, (LANE / BLOCK * BLOCK + CHANNEL)...);
}
#else
template <int CHANNEL, int... LANE>
inline Vector spread_in_blocks(Vector v, std::integer_sequence<int, LANE...>) {
  return __builtin_shuffle(v, Mask{(LANE / BLOCK * BLOCK + CHANNEL)...});
}
#endif

// One channel of every image in the vector at v, in all lanes of that image.
template <int CHANNEL>
inline Vector spread(const Vector* v) {
  if constexpr (BLOCK == LANES) {
    return all(reinterpret_cast<const Real*>(v)[CHANNEL]);
  } else {
    return spread_in_blocks<CHANNEL>(*v, std::make_integer_sequence<int, LANES>());
  }
}

// f(0), ..., f(N - 1) with constants.
template <int N, class F>
inline void for_each(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>()), ...); }
  (std::make_integer_sequence<int, N>());
}
