// Rows of a packed weight times a panel of activations, in float32 or in int8.

#pragma once

#include "panel_copy.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

struct Block {  // what a chunk of rows has in a block of features
  int64_t row, rows, feature, group, end, segment, entry;
};
template <class Kind>
struct Weight {
  const Block* blocks;
  const int32_t* groups;  // {kept entries of a row, rows} in order
  const int32_t* rows;    // of each segment
  const int16_t* columns;  // from the block's first feature
  const typename Kind::Number* values;
  const typename Kind::Number* bias;  // or null
  const int32_t* places;  // in x, of features from the block's first; for Shifted alone
};

struct Real {  // a float32 weight times a feature of eight tokens
  typedef float Number;
  typedef Lane Vector;
  static inline Lane add(Lane sum, float w, Lane x) { return sum + w * x; }
  static inline int64_t at(int16_t column, int64_t wide, const int32_t*) {
    return column * wide;
  }
};
struct Shifted : Real {  // the same, where features are anywhere
  static inline int64_t at(int16_t column, int64_t, const int32_t* places) {
    return places[column];
  }
};

// Four int8 weights times four features, uint8, of eight tokens. Weights of at most 63
// and activations of at most 255 fit: no sum of two products leaves 16 bits.
struct Byte {
  typedef int32_t Number;
  typedef Whole Vector;
  static inline Whole add(Whole sum, int32_t w, Whole x) {
#if defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, _mm256_set1_epi32(w));
    return sum + (Whole)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    for (int i = 0; i < 32; i += 8) sum += ((x >> i) & 255) * int8_t(uint32_t(w) >> i);
    return sum;
#endif
  }
  static constexpr auto at = Real::at;
};

// R rows (of G outputs that share their columns) with `count` entries each.
template <class Kind, int NV, int R, int G>
__attribute__((always_inline)) inline void segments(
    const typename Kind::Number* x, typename Kind::Number* y, const int32_t* rows,
    const int16_t* columns, const typename Kind::Number* values, int64_t count,
    const Weight<Kind>& w, bool first) {
  typedef typename Kind::Number Number;
  typedef typename Kind::Vector Vector;
  constexpr int64_t wide = NV * L;
  Vector sum[R * G][NV];
  Number* into[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) into[r] = y + int64_t(rows[r]) * G * wide;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) {
      const Number start = first && w.bias ? w.bias[int64_t(rows[r]) * G + g] : 0;
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++)
        sum[r * G + g][j] =
            first ? Vector{} + start : load<Vector>(into[r] + g * wide + j * L);
    }
  for (int64_t c = 0; c < count; c++)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Number* p = x + Kind::at(columns[r * count + c], wide, w.places);
      const Number* v = values + (r * count + c) * G;
      Vector part[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) part[j] = load<Vector>(p + j * L);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++)
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
          sum[r * G + g][j] = Kind::add(sum[r * G + g][j], v[g], part[j]);
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++)
        store(into[r] + g * wide + j * L, sum[r * G + g][j]);
}

template <class Kind, int NV, int G>
__attribute__((noinline)) void multiply(const Block& b, const Weight<Kind>& w,
                                        const typename Kind::Number* x,
                                        typename Kind::Number* y, bool first) {
  constexpr int R = G > 1 ? 1 : NV == 1 ? 8 : NV <= 3 ? 4 : NV <= 6 ? 2 : 1;
  const int32_t* rows = w.rows + b.segment;
  const int16_t* columns = w.columns + b.entry;
  const typename Kind::Number* values = w.values + b.entry * G;
  for (int64_t g = b.group; g < b.end; g++) {
    const int64_t count = w.groups[2 * g];
    int64_t left = w.groups[2 * g + 1];
    for (; left >= R; left -= R) {
      segments<Kind, NV, R, G>(x, y, rows, columns, values, count, w, first);
      rows += R, columns += R * count, values += R * count * G;
    }
    if (R > 1)
      for (; left; left--) {
        segments<Kind, NV, 1, G>(x, y, rows, columns, values, count, w, first);
        rows++, columns += count, values += count * G;
      }
  }
}

// The same for one token: x is a vector.
template <int G>
void multiply_one(const Block& b, const Weight<Real>& w, const float* x, float* y,
                  bool first) {
  const int32_t* rows = w.rows + b.segment;
  const int16_t* columns = w.columns + b.entry;
  const float* values = w.values + b.entry * G;
  for (int64_t g = b.group; g < b.end; g++) {
    const int64_t count = w.groups[2 * g];
    for (int64_t left = w.groups[2 * g + 1]; left; left--, rows++) {
      float sum[4][G] = {};
      int64_t c = 0;
      for (; c + 4 <= count; c += 4)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++)
#pragma GCC unroll 4
          for (int i = 0; i < G; i++)
            sum[u][i] += values[(c + u) * G + i] * x[columns[c + u]];
      for (; c < count; c++)
        for (int i = 0; i < G; i++) sum[0][i] += values[c * G + i] * x[columns[c]];
      for (int i = 0; i < G; i++) {
        const int64_t row = int64_t(*rows) * G + i;
        const float all = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
        y[row] = all + (!first ? y[row] : w.bias ? w.bias[row] : 0);
      }
      columns += count, values += count * G;
    }
  }
}

template <class Kind, int G, int NV>
void multiply_wide(int64_t vectors, const Block& b, const Weight<Kind>& w,
                   const typename Kind::Number* x, typename Kind::Number* y,
                   bool first) {
  if constexpr (NV > 1)
    if (vectors < NV) return multiply_wide<Kind, G, NV - 1>(vectors, b, w, x, y, first);
  multiply<Kind, NV, G>(b, w, x, y, first);
}

}  // namespace
