// Vectors of eight tokens, and copies between layouts. Plain C++17 with the vector
// extensions of GCC and Clang.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

constexpr int64_t L = 8;  // also where vectors are longer: only these were measured
typedef float Lane __attribute__((vector_size(4 * L)));
typedef int32_t Whole __attribute__((vector_size(4 * L)));

// Rows become columns.
inline void transpose(Lane a[L]) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
#define PAIRS(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
  Lane b[L];
  for (int i = 0; i < 8; i += 2) {
    b[i] = PAIRS(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    b[i + 1] = PAIRS(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; k++) {
      a[i + 2 * k] = PAIRS(b[i + k], b[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + 2 * k + 1] = PAIRS(b[i + k], b[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; i++) {
    b[i] = PAIRS(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = PAIRS(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#undef PAIRS
  std::memcpy(a, b, sizeof b);
#else
  for (int i = 0; i < L; i++)
    for (int j = 0; j < i; j++) {
      const float x = a[i][j];
      a[i][j] = a[j][i], a[j][i] = x;
    }
#endif
}

// to[i * ti + j * tj] = from[i * fi + j * fj] for i < m, j < n: tiles of L by L.
void copy(const float* from, int64_t fi, int64_t fj, float* to, int64_t ti, int64_t tj,
          int64_t m, int64_t n) {
  if (fj == 1 && tj == 1) {
    for (int64_t i = 0; i < m; i++)
      std::memcpy(to + i * ti, from + i * fi, n * sizeof *to);
    return;
  }
  const bool turned = (fi == 1 && tj == 1) || (fj == 1 && ti == 1);
  for (int64_t j = 0; j < n; j += L)
    for (int64_t i = 0; i < m; i += L) {
      const float* p = from + i * fi + j * fj;
      float* q = to + i * ti + j * tj;
      if (turned && i + L <= m && j + L <= n) {
        Lane tile[L];
        for (int64_t u = 0; u < L; u++) tile[u] = load<Lane>(p + u * (fi == 1 ? fj : fi));
        transpose(tile);
        for (int64_t u = 0; u < L; u++) store(q + u * (ti == 1 ? tj : ti), tile[u]);
        continue;
      }
      for (int64_t u = 0; u < std::min(L, m - i); u++)
        for (int64_t v = 0; v < std::min(L, n - j); v++)
          q[u * ti + v * tj] = p[u * fi + v * fj];
    }
}

}  // namespace
