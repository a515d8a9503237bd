// Activations, eight numbers at a time, by their places in `ACTIVATIONS` of activation.py.

#pragma once

#include <algorithm>
#include <cmath>

#include "panel_copy.h"

namespace {

inline Lane at_least(Lane x, float least) { return x < least ? Lane{} + least : x; }
inline Lane at_most(Lane x, float most) { return x > most ? Lane{} + most : x; }

// x / (1 + exp(-slope)): a slope beyond +-87 changes nothing that a float can show.
inline Lane gated(Lane x, Lane slope) {
  return x / (1.0f + exponential(at_most(at_least(-slope, -87.0f), 87.0f)));
}

// x Phi(x), with erfc(|z|) = t p(t) exp(-z^2), t = 1 / (1 + 0.3275911 |z|), to 1.5e-7:
// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. For x below zero,
// what is small is computed as it is, and not as a difference from one.
inline Lane normal_gated(Lane x) {
  const Lane z = (Lane)((Whole)x & 0x7fffffff) * 0.70710678f;
  const Lane t = 1.0f / (z * 0.3275911f + 1.0f);
  Lane p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Lane half = 0.5f * p * t * exponential(at_least(-z * z, -87.0f));
  return x * (x < 0.0f ? half : 1.0f - half);
}

inline Lane activated(int64_t kind, Lane x) {
  switch (kind) {
    case 1: return at_least(x, 0);
    case 2: return at_most(at_least(x, 0), 6);
    case 3: return x * at_most(at_least(x + 3.0f, 0), 6) * (1 / 6.0f);
    case 4: return gated(x, x);
    case 5: return normal_gated(x);
    case 6: return gated(x, (x * x * 0.07135481f + 1.5957691f) * x);
    default: return x;
  }
}

// All of y, in place.
void activate(int64_t kind, float* y, int64_t count) {
  if (!kind) return;
  for (int64_t i = 0; i < count; i += L) {
    Lane x{};
    const int64_t bytes = std::min(L, count - i) * sizeof *y;
    if (bytes == sizeof x) {
      store(y + i, activated(kind, load<Lane>(y + i)));
      continue;
    }
    std::memcpy(&x, y + i, bytes);
    x = activated(kind, x);
    std::memcpy(y + i, &x, bytes);
  }
}

}  // namespace
