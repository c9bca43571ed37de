/* Dynamic Tanh and Dynamic erf in one pass over memory: out = w phi(alpha x + shift) + b, and its gradients.
 *
 * The rational functions and the polynomial are least-maximum fits, made for this file, of tanh(a)/a and erf(a)/a in a^2 and
 * of 2^f; relative error of phi at most 5e-7, in single precision. Loops over columns are written to be vectorized.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32 /* rows that are summed in single precision before they are added in double */

/* Both sides are computed and one is taken by its bits: a branch would keep the loop from being vectorized. */
static inline float choose(int32_t first, float one, float other) {
    int32_t mask = -first, a, b, chosen;
    float result;
    memcpy(&a, &one, sizeof a);
    memcpy(&b, &other, sizeof b);
    chosen = (a & mask) | (b & ~mask);
    memcpy(&result, &chosen, sizeof result);
    return result;
}

/* 2^z for -125 <= z <= 0: 2^n 2^f, z = n + f, n by adding 1.5 2^23 and taking it away. */
static inline float exp2_of_negative(float z) {
    float shifted = z + 12582912.0f, f = z - (shifted - 12582912.0f);
    float p = 0.00015469860227312893f;
    p = p * f + 0.0013390982057899237f;
    p = p * f + 0.009618030861020088f;
    p = p * f + 0.055503569543361664f;
    p = p * f + 0.24022650718688965f;
    p = p * f + 0.6931471824645996f;
    p = p * f + 1.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale * p;
}

/* One beyond the end of the fit and where rounding exceeds it. */
static inline float saturated(float magnitude, float end, float u) {
    return copysignf(choose((magnitude > 1.0f) | (fabsf(u) >= end), 1.0f, magnitude), u);
}

static inline float tanh_value(float u) {
    float a = fabsf(u);
    a = choose(a > 9.0f, 9.0f, a);
    float s = a * a;
    float p = 1.3354728878312017e-08f, q = 7.776587835905957e-07f;
    p = p * s + 2.060913720924873e-05f;
    q = q * s + 0.00032856405596248806f;
    p = p * s + 0.0034955916926264763f;
    q = q * s + 0.02587699703872204f;
    p = p * s + 0.13381028175354004f;
    q = q * s + 0.4671434462070465f;
    return saturated(a * (p * s + 1.0f) / (q * s + 1.0f), 9.1f, u);
}

/* For gradients: value and slope at once, the value to 5e-7 in absolute terms. */
static inline float tanh_both(float u, float *slope) {
    float value = tanh_value(u);
    *slope = 1.0f - value * value;
    return value;
}

static inline float erf_value(float u) {
    float a = fabsf(u);
    a = choose(a > 4.0f, 4.0f, a);
    float s = a * a;
    float p = 1.9111055848952674e-08f, q = 0.0010210330365225673f;
    p = p * s - 1.9422809600655455e-06f;
    q = q * s + 0.01495741493999958f;
    p = p * s + 0.00014727843517903239f;
    q = q * s + 0.11796761304140091f;
    p = p * s + 0.003990247379988432f;
    q = q * s + 0.5168845653533936f;
    p = p * s + 0.05152386426925659f;
    p = p * s + 0.2071177214384079f;
    return saturated(a * (p * s + 1.1283791065216064f) / (q * s + 1.0f), 4.0f, u);
}

/* 1 - exp(-a^2) r(a): no division, and the exponential serves the slope too. */
static inline float erf_both(float u, float *slope) {
    float a = fabsf(u);
    a = choose(a > 9.0f, 9.0f, a);
    float e = exp2_of_negative(-1.4426950408889634f * (a * a));
    *slope = 1.1283791671f * e;
    float r = -0.0003645651740953326f;
    r = r * a + 0.004859059117734432f;
    r = r * a - 0.028751328587532043f;
    r = r * a + 0.1021011620759964f;
    r = r * a - 0.25148651003837585f;
    r = r * a + 0.47595658898353577f;
    r = r * a - 0.7454136610031128f;
    r = r * a + 0.999008059501648f;
    r = r * a - 1.1283234357833862f;
    r = r * a + 0.999999463558197f;
    return copysignf(1.0f - e * r, u);
}

/* Of every thread's sums (threads, 4, columns): gradients by weight, by bias, by alpha and by shift. */
static void add_up(double *restrict sums, int64_t columns, int32_t threads, float *restrict gw, float *restrict gb,
                   float *restrict g_alpha, float *restrict g_shift) {
    double by_alpha = 0.0, by_shift = 0.0;
    for (int32_t t = 1; t < threads; t++)
        for (int64_t i = 0; i < 4 * columns; i++) sums[i] += sums[t * 4 * columns + i];
    for (int64_t j = 0; j < columns; j++) {
        gw[j] = (float)sums[j];
        gb[j] = (float)sums[columns + j];
        by_alpha += sums[2 * columns + j];
        by_shift += sums[3 * columns + j];
    }
    *g_alpha = (float)by_alpha;
    *g_shift = (float)by_shift;
}

#define DEFINE(NAME)                                                                                                   \
    void NAME##_forward(const float *restrict x, const float *restrict w, const float *restrict b, float alpha,        \
                        float shift, int64_t rows, int64_t columns, int32_t threads, float *restrict out) {            \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                              \
        for (int64_t i = 0; i < rows; i++)                                                                             \
            for (int64_t j = 0; j < columns; j++)                                                                      \
                out[i * columns + j] = NAME##_value(alpha * x[i * columns + j] + shift) * w[j] + b[j];                 \
    }                                                                                                                  \
    static __attribute__((noinline)) void NAME##_rows(                                                                 \
        const float *restrict x, const float *restrict g, const float *restrict w, float alpha, float shift,           \
        int64_t columns, float *restrict gx, float *restrict by_weight, float *restrict by_bias,                       \
        float *restrict by_alpha, float *restrict by_shift) {                                                          \
        const float *restrict xb = x + columns, *restrict gb = g + columns;                                            \
        const float *restrict xc = xb + columns, *restrict gc = gb + columns;                                          \
        const float *restrict xd = xc + columns, *restrict gd = gc + columns;                                          \
        float *restrict outb = gx + columns, *restrict outc = outb + columns, *restrict outd = outc + columns;         \
        for (int64_t j = 0; j < columns; j++) {                                                                        \
            float slope, slopeb, slopec, sloped;                                                                       \
            float value = NAME##_both(alpha * x[j] + shift, &slope);                                                   \
            float valueb = NAME##_both(alpha * xb[j] + shift, &slopeb);                                                \
            float valuec = NAME##_both(alpha * xc[j] + shift, &slopec);                                                \
            float valued = NAME##_both(alpha * xd[j] + shift, &sloped);                                                \
            float s = g[j] * w[j] * slope, sb = gb[j] * w[j] * slopeb;                                                 \
            float sc = gc[j] * w[j] * slopec, sd = gd[j] * w[j] * sloped;                                              \
            gx[j] = alpha * s;                                                                                         \
            outb[j] = alpha * sb;                                                                                      \
            outc[j] = alpha * sc;                                                                                      \
            outd[j] = alpha * sd;                                                                                      \
            by_weight[j] += g[j] * value + gb[j] * valueb + gc[j] * valuec + gd[j] * valued;                           \
            by_bias[j] += g[j] + gb[j] + gc[j] + gd[j];                                                                \
            by_alpha[j] += s * x[j] + sb * xb[j] + sc * xc[j] + sd * xd[j];                                            \
            by_shift[j] += s + sb + sc + sd;                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    static __attribute__((noinline)) void NAME##_row(                                                                  \
        const float *restrict x, const float *restrict g, const float *restrict w, float alpha, float shift,           \
        int64_t columns, float *restrict gx, float *restrict by_weight, float *restrict by_bias,                       \
        float *restrict by_alpha, float *restrict by_shift) {                                                          \
        for (int64_t j = 0; j < columns; j++) {                                                                        \
            float slope, value = NAME##_both(alpha * x[j] + shift, &slope);                                            \
            float s = g[j] * w[j] * slope;                                                                             \
            gx[j] = alpha * s;                                                                                         \
            by_weight[j] += g[j] * value;                                                                              \
            by_bias[j] += g[j];                                                                                        \
            by_alpha[j] += s * x[j];                                                                                   \
            by_shift[j] += s;                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    /* gw, gb: (columns); g_alpha, g_shift: one number. Returns 0, or 1 where memory is short. */                      \
    int32_t NAME##_backward(const float *restrict x, const float *restrict g, const float *restrict w, float alpha,    \
                         float shift, int64_t rows, int64_t columns, int32_t threads, float *restrict gx,              \
                         float *restrict gw, float *restrict gb, float *restrict g_alpha, float *restrict g_shift) {   \
        double *sums = calloc(4 * columns * threads, sizeof *sums); /* of g phi, g, s x and s, s = g w phi' */         \
        float *parts = malloc(4 * columns * threads * sizeof *parts);                                                  \
        if (sums == NULL || parts == NULL) {                                                                           \
            free(sums);                                                                                                \
            free(parts);                                                                                               \
            return 1;                                                                                                  \
        }                                                                                                              \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                              \
        for (int64_t top = 0; top < rows; top += BLOCK) {                                                              \
            double *mine = sums + 4 * columns * omp_get_thread_num();                                                  \
            float *part = parts + 4 * columns * omp_get_thread_num();                                                  \
            int64_t bottom = top + BLOCK < rows ? top + BLOCK : rows;                                                  \
            memset(part, 0, 4 * columns * sizeof *part);                                                               \
            int64_t i = top;                                                                                           \
            for (; i + 3 < bottom; i += 4)                                                                             \
                NAME##_rows(x + i * columns, g + i * columns, w, alpha, shift, columns, gx + i * columns, part,        \
                            part + columns, part + 2 * columns, part + 3 * columns);                                   \
            for (; i < bottom; i++)                                                                                    \
                NAME##_row(x + i * columns, g + i * columns, w, alpha, shift, columns, gx + i * columns, part,         \
                           part + columns, part + 2 * columns, part + 3 * columns);                                    \
            for (int64_t j = 0; j < 4 * columns; j++) mine[j] += part[j];                                              \
        }                                                                                                              \
        free(parts);                                                                                                   \
        add_up(sums, columns, threads, gw, gb, g_alpha, g_shift);                                                      \
        free(sums);                                                                                                    \
        return 0;                                                                                                      \
    }

DEFINE(tanh)
DEFINE(erf)
