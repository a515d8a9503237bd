// Lanes: vectors of floats, sigmoids, sums that do not depend on the number of threads,
// and the walk over the chunks of many tensors. Plain C++17 with the vector extensions
// of GCC and Clang.

#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "vectors.h"

// Bodies are called at two places, one with a constant: there they must be inlined.
#define INLINE __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
constexpr int64_t AHEAD = 1024;  // entries: a page, where hardware stops looking ahead
constexpr int64_t WORD = 16;  // entries whose mask bits are written together
constexpr int64_t BLOCK = 512, CHUNK = 1 << 16, PER_THREAD = 1 << 19;
constexpr int64_t BINS = 1 << 15;
constexpr int32_t ABS = 0x7fffffff;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

struct Mask {  // one tensor's soft mask: sigmoid(slope * (|w| - center) + mu)
  float slope, center, mu;
};

inline Floats all(float x) { return Floats{} + x; }
inline Floats keep(Ints where, Floats x) { return (Floats)((Ints)x & where); }
inline Floats magnitude(Floats x) { return (Floats)((Ints)x & ABS); }

// Exactly 1 and 0 at the infinities: a density of 1 is the identity.
inline Floats sigmoid(Floats z) {
  Floats x = -z;
  x = x < -80.0f ? all(-80.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  return keep(~(z < -88.0f), 1.0f / (exponential(x) + 1.0f));
}
inline Floats soft(Floats a, Mask k) {
  return sigmoid((a - k.center) * k.slope + k.mu);
}

// A sum that is float32 within a block and double across blocks.
struct Sum {
  double total[LANES] = {};
  Floats part = {};
  void flush() {
    for (int i = 0; i < LANES; i++) total[i] += part[i];
    part = Floats{};
  }
  double value() {
    flush();
    double sum = 0;
    for (double t : total) sum += t;
    return sum;
  }
};
inline int64_t total(Ints lanes) {
  int64_t sum = 0;
  for (int i = 0; i < LANES; i++) sum += lanes[i];
  return sum;
}

// Kept is what is above the threshold, and at it up to the index `last`: in entries
// before `split` what is above bars[0], the next lower float, then above bars[1].
struct Rule {
  float bars[2];
  int64_t split;
  Rule(float threshold, int64_t last)
      : bars{std::nextafterf(threshold, -INFINITY), threshold}, split(last + 1) {}
};

// Calls body(i, lanes inside, side of the split) for 16 entries at a time, and flush()
// after each block.
template <class Body, class Flush>
inline void walk(int64_t begin, int64_t end, int64_t split, Body body, Flush flush) {
  split = std::max(begin, std::min(split, end));
  const int64_t stops[] = {split, end};
  int64_t i = begin;
  for (int side = 0; side < 2; side++) {
    while (i < stops[side]) {
      int64_t block = std::min(i + BLOCK, stops[side]);
      for (; i + LANES <= block; i += LANES) body(i, LANES, side);
      if (i < block) body(i, block - i, side), i = block;
      flush();
    }
  }
}
// The entries from p, zeros past `inside`; and the lanes that are inside.
inline Floats entries(const float* p, int64_t inside) {
  if (inside == LANES) {
    __builtin_prefetch(p + AHEAD);
    return load<Floats>(p);
  }
  Floats x = {};
  std::memcpy(&x, p, inside * sizeof *p);
  return x;
}
inline Ints lanes(int64_t inside) {
  if (inside == LANES) return Ints{} - 1;
  Ints x = {};
  for (int64_t j = 0; j < inside; j++) x[j] = -1;
  return x;
}
// One bit a lane.
inline uint64_t bits_of(Ints where) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)where, (__m512i)where);
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)where);
#else
  Bytes bytes = __builtin_convertvector(where, Bytes) & 1;
  uint64_t word = 0;
  std::memcpy(&word, &bytes, sizeof bytes);
  return word * 0x0102040810204080 >> 56;  // moves byte j to bit j of the top byte
#endif
}
// Lanes whose bits are set, from entry i on; i is a multiple of the lanes.
inline Ints set(const uint8_t* bits, int64_t i) {
  Ints one;
  for (int j = 0; j < LANES; j++) one[j] = 1 << j;
  int32_t word = bits[i / 8] >> (i & 7);
  if (LANES > 8) word |= bits[i / 8 + 1] << 8;
  return ((Ints{} + word) & one) != 0;
}
template <class V>
inline void put(void* p, V x, int64_t inside) {
  std::memcpy(p, &x, inside * (sizeof x / LANES));
}

// Runs body(tensor, begin, end, sums) on chunks of all tensors, on some threads; adds
// the sums of each tensor's chunks in order.
template <int K, class Body>
void sweep(int64_t count, const int64_t* sizes, int64_t threads, double* out,
           Body body) {
  struct Piece {
    int64_t tensor, begin, end;
    std::array<double, K> sums;
  };
  std::vector<Piece> pieces;
  int64_t entries = 0;
  for (int64_t t = 0; t < count; t++) {
    entries += sizes[t];
    for (int64_t i = 0; i < sizes[t]; i += CHUNK)
      pieces.push_back({t, i, std::min(i + CHUNK, sizes[t]), {}});
  }
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t p; (p = next++) < pieces.size();) {
      Piece& piece = pieces[p];
      body(piece.tensor, piece.begin, piece.end, piece.sums.data());
    }
  };
  std::vector<std::thread> others;
  for (int64_t t = std::min(threads, 1 + entries / PER_THREAD); t > 1; t--)
    others.emplace_back(work);
  work();
  for (auto& thread : others) thread.join();
  for (auto& piece : pieces)
    for (int k = 0; k < K; k++) out[piece.tensor * K + k] += piece.sums[k];
}

// Sorts floats that are not negative: their bits, read as integers, have their order.
void sort(float* band, int64_t size) {
  constexpr int DIGIT = 9;
  if (size < 256) return std::sort(band, band + size);
  std::vector<uint32_t> from(size), to(size);
  std::memcpy(from.data(), band, size * sizeof *band);
  const uint32_t least = *std::min_element(from.begin(), from.end());
  const uint32_t most = *std::max_element(from.begin(), from.end()) - least;
  for (int shift = 0; shift < 32 && most >> shift; shift += DIGIT) {
    int64_t place[(1 << DIGIT) + 1] = {};
    auto digit = [&](uint32_t x) { return (x - least) >> shift & ((1 << DIGIT) - 1); };
    for (uint32_t x : from) place[digit(x) + 1]++;
    for (int d = 0; d < 1 << DIGIT; d++) place[d + 1] += place[d];
    for (uint32_t x : from) to[place[digit(x)]++] = x;
    from.swap(to);
  }
  std::memcpy(band, from.data(), size * sizeof *band);
}

}  // namespace
