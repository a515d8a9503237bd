// Loads, stores and exponentials of vectors of any length. Plain C++17 with the vector
// extensions of GCC and Clang.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

template <class V>
inline V load(const void* p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
template <class V>
inline void store(void* p, V x) {
  std::memcpy(p, &x, sizeof x);
}

// exp(x) of floats from -87 to 88: with exp(r) = 1 + r + r^2 p(r) for |r| <= log(2)/2,
// where p is a fit to 3e-9.
template <class V>
inline V exponential(V x) {
  typedef decltype(x < x) Ints;
  // 1.5 * 2^23 pushes the fraction out: the low bits of the sum are round(x / log 2)
  V shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  V r = x - n * 0.693359375f + n * 2.12194440e-4f;
  V p = r * 0.0013814569f + 0.008368715f;
  p = p * r + 0.04166839f;
  p = p * r + 0.16666521f;
  p = p * r + 0.49999994f;
  p = (p * r) * r + r + 1.0f;
  return (V)((Ints)p + ((Ints)shifted << 23));
}

}  // namespace
