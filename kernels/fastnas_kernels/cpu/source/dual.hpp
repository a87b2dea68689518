// Numbers that carry a tangent: f(v + e d) = f(v) + e f'(v) d with e * e = 0 (Clifford, 1873; forward-mode automatic
// differentiation). Comparisons look at the number alone, so at a corner of ReLU or of a maximum the derivative is that
// of the branch which the number takes. In memory number and tangent of a Real lie side by side;
// the tangents of images are images of their own.
#pragma once

#include "lanes.hpp"

template <class T>
struct Dual {
  T v, d;

  Dual() = default;
  Dual(T number, T tangent = {}) : v(number), d(tangent) {}
  template <class N>
    requires(std::is_arithmetic_v<N> && std::is_arithmetic_v<T>)
  Dual(N number) : v(T(number)), d(0) {}

  Dual operator-() const { return {-v, -d}; }
  friend Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
  friend Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
  friend Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.v * b.d + a.d * b.v}; }
  friend Dual operator/(Dual a, Dual b) {
    const T quotient = a.v / b.v;
    return {quotient, (a.d - quotient * b.d) / b.v};
  }
  Dual& operator+=(Dual b) { return *this = *this + b; }
  Dual& operator-=(Dual b) { return *this = *this - b; }
  Dual& operator*=(Dual b) { return *this = *this * b; }
  Dual& operator/=(Dual b) { return *this = *this / b; }

  friend auto operator<=(Dual a, Dual b) { return a.v <= b.v; }
  friend auto operator>(Dual a, Dual b) { return a.v > b.v; }
  friend auto operator==(Dual a, Dual b) { return a.v == b.v; }
  friend auto operator!=(Dual a, Dual b) { return a.v != b.v; }

  friend Dual sqrt(Dual a) {
    const T root = std::sqrt(a.v);
    return {root, a.d / (2 * root)};
  }
};

using Real = Dual<Number>;
using Vector = Dual<Numbers>;

// Where images and their tangents lie.
template <class N>
struct Places {
  N *v, *d;

  Real operator[](Index i) const { return {v[i], d[i]}; }
  Places operator+(Index i) const { return {v + i, d + i}; }
  operator Places<const N>() const { return {v, d}; }
  explicit operator bool() const { return v; }
};
using Image = Places<Number>;
using ConstImage = Places<const Number>;

inline void put(Image to, Index i, Real value) { to.v[i] = value.v, to.d[i] = value.d; }

template <class F>
inline Vector of_image(ConstImage at, F f) {
  return {f(at.v), f(at.d)};
}
template <class F>
inline void to_image(Vector v, Image at, F f) {
  f(v.v, at.v), f(v.d, at.d);
}

inline Vector all(Real value) { return {Numbers{} + value.v, Numbers{} + value.d}; }
inline Real lane(const Vector* v, Index i) {
  const Number* numbers = reinterpret_cast<const Number*>(v);
  return {numbers[i], numbers[LANES + i]};
}
// f, which is linear, of number and tangent.
template <class F>
inline Vector each(Vector v, F f) {
  return {f(v.v), f(v.d)};
}

inline Vector zero_unless(Mask keep, Vector v) { return {zero_unless(keep, v.v), zero_unless(keep, v.d)}; }
inline Vector choose(Mask which, Vector a, Vector b) { return {choose(which, a.v, b.v), choose(which, a.d, b.d)}; }

// Two multiply-adds for the tangent, where a sum of products would take an addition more.
inline void add_product(Vector& sum, Vector a, Vector b) {
  sum.v += a.v * b.v;
  sum.d += a.v * b.d;
  sum.d += a.d * b.v;
}

template <class Places, class Count>
inline Vector from_lanes(Places at, Count count) {
  Vector v = {};
  for (Index i = 0; i < count; i++) v.v[i] = Real(at[i]).v, v.d[i] = Real(at[i]).d;
  return v;
}
template <class Count>
inline void to_lanes(Vector v, Real* at, Count count) {
  for (Index i = 0; i < count; i++) at[i] = {v.v[i], v.d[i]};
}
