// The gradient of a linear layer's kept weights alone: of each, the product over tokens
// of an output's gradient and a feature's activation.
//
// Weights are laid out as `products.cpp` reads them. A panel of tokens of activations and
// gradients is copied so that its tokens lie side by side; a segment's gradient stays in
// registers, and eight sums at a time become one vector.

#include "product_rows.h"
#include "spread.h"

namespace {

struct Extent {  // of x (tokens, features) and g (tokens, rows), strides, blocks
  int64_t tokens, features, rows, xt, xk, gt, gn, blocks;
};
constexpr int64_t PANEL = 8;  // vectors of tokens

// Sums of up to eight vectors, as one.
template <int NV>
inline Lane sums(const Lane* g, const float* x, const int16_t* columns, int64_t count) {
  Lane a[L] = {};
#pragma GCC unroll 8
  for (int u = 0; u < L; u++) {
    if (u >= count) break;
    const float* p = x + columns[u] * NV * L;
    a[u] = g[0] * load<Lane>(p);
#pragma GCC unroll 8
    for (int j = 1; j < NV; j++) a[u] += g[j] * load<Lane>(p + j * L);
  }
  transpose(a);
  return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

template <int NV>
void block(const Block& b, const int32_t* groups, const int32_t* rows,
           const int16_t* columns, const float* xs, const float* gs, float* into) {
  const float* x = xs + b.feature * NV * L;
  rows += b.segment, columns += b.entry, into += b.entry;
  for (int64_t g = b.group; g < b.end; g++) {
    const int64_t count = groups[2 * g];
    for (int64_t left = groups[2 * g + 1]; left; left--, rows++) {
      Lane own[NV];
      for (int j = 0; j < NV; j++) own[j] = load<Lane>(gs + (*rows * NV + j) * L);
      int64_t c = 0;
      for (; c + L <= count; c += L)
        store(into + c, load<Lane>(into + c) + sums<NV>(own, x, columns + c, L));
      if (c < count) {
        const Lane rest = sums<NV>(own, x, columns + c, count - c);
        for (int u = 0; u < count - c; u++) into[c + u] += rest[u];
      }
      columns += count, into += count;
    }
  }
}

// What a panel of tokens adds, for every `parts`th block from `part`.
template <int NV>
void panel(const Extent& s, const Block* blocks, const int32_t* groups,
           const int32_t* rows, const int16_t* columns, const float* x, const float* g,
           float* into, int64_t token, int64_t part, int64_t parts) {
  static thread_local std::vector<float> in, out;
  const int64_t wide = NV * L, n = std::min(wide, s.tokens - token);
  float *xs = room(in, s.features * wide), *gs = room(out, s.rows * wide);
  copy(x + token * s.xt, s.xk, s.xt, xs, wide, 1, s.features, n);
  copy(g + token * s.gt, s.gn, s.gt, gs, wide, 1, s.rows, n);
  for (int64_t k = 0; n < wide && k < s.features; k++)
    std::fill(xs + k * wide + n, xs + (k + 1) * wide, 0.0f);
  for (int64_t k = 0; n < wide && k < s.rows; k++)
    std::fill(gs + k * wide + n, gs + (k + 1) * wide, 0.0f);
  for (int64_t i = part; i < s.blocks; i += parts)
    block<NV>(blocks[i], groups, rows, columns, xs, gs, into);
}

}  // namespace

// `into` has an entry a kept weight, in the layout's order.
extern "C" void support_gradient(int64_t threads, Pool pool, const Extent* extent,
                                 const float* x, const float* g, const Block* blocks,
                                 const int32_t* groups, const int32_t* rows,
                                 const int16_t* columns, float* into) {
  const Extent& s = *extent;
  const int64_t parts = std::min(threads, s.blocks);
  spread(parts, threads, pool, [&](int64_t part) {
    for (int64_t i = part; i < s.blocks; i += parts) {
      const Block& b = blocks[i];
      int64_t entries = 0;
      for (int64_t at = b.group; at < b.end; at++)
        entries += int64_t(groups[2 * at]) * groups[2 * at + 1];
      std::fill(into + b.entry, into + b.entry + entries, 0.0f);
    }
    int64_t token = 0;
    for (; token + L * PANEL / 2 < s.tokens; token += PANEL * L)
      panel<PANEL>(s, blocks, groups, rows, columns, x, g, into, token, part, parts);
    for (; token < s.tokens; token += PANEL / 2 * L)
      panel<PANEL / 2>(s, blocks, groups, rows, columns, x, g, into, token, part, parts);
  });
}
