// The elementwise half of the dynamic convolution and of its predictor (paper 3.3); nsl/kernels/compiled.py compiles and calls
// it, nsl/kernels/patches.py and nsl/kernels/predictor_middle.py hold the same functions in plain PyTorch, which say what is computed. The
// matrix products and convolutions stay with PyTorch.
//
// All tensors are contiguous, channels last:
//   x, dx [n, H, W, C]   u, v [n, Ho, Wo, K, C]   m, dm [n, Ho, Wo, K] (diagonal) or [n, Ho, Wo, K, K].
// T is the stored type, float, double or bfloat16; sums are float (double for double).

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

struct bfloat16 {
    uint16_t bits;
};

static inline float widen(float value) { return value; }
static inline double widen(double value) { return value; }
static inline float widen(bfloat16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}
static inline void narrow(float& to, float value) { to = value; }
static inline void narrow(double& to, double value) { to = value; }
static inline void narrow(bfloat16& to, float value) {  // to the nearest, ties to even, as PyTorch does
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };

// Order of fields: nsl/kernels/compiled.py.
struct Geometry {
    int64_t images, height, width, channels, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t padding_height, padding_width, dilation_height, dilation_width, threads;
};

// Offset of the input position that tap (i, j) of output position (row, column) reads, or -1 in the padding.
static inline int64_t source(const Geometry& g, int64_t row, int64_t column, int64_t i, int64_t j) {
    int64_t h = row * g.stride_height - g.padding_height + i * g.dilation_height;
    int64_t w = column * g.stride_width - g.padding_width + j * g.dilation_width;
    return h < 0 || h >= g.height || w < 0 || w >= g.width ? -1 : h * g.width + w;
}

// FIXED: the number of channels when it is known to the compiler, else 0.
template <class T, int FIXED>
static void diagonal_apply(const T* x, const T* m, T* u, const Geometry& g) {
    const int64_t C = FIXED ? FIXED : g.channels, K = g.kernel_height * g.kernel_width;
#pragma omp parallel for collapse(2) schedule(static) num_threads(g.threads)
    for (int64_t n = 0; n < g.images; ++n)
        for (int64_t row = 0; row < g.out_height; ++row)
            for (int64_t column = 0; column < g.out_width; ++column) {
                const int64_t p = (n * g.out_height + row) * g.out_width + column;
                for (int64_t i = 0, k = 0; i < g.kernel_height; ++i)
                    for (int64_t j = 0; j < g.kernel_width; ++j, ++k) {
                        T* target = u + (p * K + k) * C;
                        const int64_t q = source(g, row, column, i, j);
                        if (q < 0) {
                            std::memset(target, 0, C * sizeof(T));
                            continue;
                        }
                        const T* patch = x + (n * g.height * g.width + q) * C;
                        const auto mask = widen(m[p * K + k]);
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) narrow(target[c], mask * widen(patch[c]));
                    }
            }
}

// In: v = dL/du. Out: v = u (the masked patches again), dm, dx.
template <class T, int FIXED>
static void diagonal_gradients(T* v, const T* x, const T* m, T* dm, T* dx, const Geometry& g) {
    using S = typename Sum<T>::type;
    const int64_t C = FIXED ? FIXED : g.channels, K = g.kernel_height * g.kernel_width;
    const int64_t size = g.height * g.width * C;
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<S> gathered(size);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < g.images; ++n) {
            std::fill(gathered.begin(), gathered.end(), S(0));
            for (int64_t row = 0; row < g.out_height; ++row)
                for (int64_t column = 0; column < g.out_width; ++column) {
                    const int64_t p = (n * g.out_height + row) * g.out_width + column;
                    for (int64_t i = 0, k = 0; i < g.kernel_height; ++i)
                        for (int64_t j = 0; j < g.kernel_width; ++j, ++k) {
                            T* both = v + (p * K + k) * C;
                            const int64_t q = source(g, row, column, i, j);
                            if (q < 0) {
                                std::memset(both, 0, C * sizeof(T));
                                narrow(dm[p * K + k], S(0));
                                continue;
                            }
                            const T* patch = x + n * size + q * C;
                            S* sum = gathered.data() + q * C;
                            const S mask = widen(m[p * K + k]);
                            S dot = 0;
#pragma omp simd reduction(+ : dot)
                            for (int64_t c = 0; c < C; ++c) {
                                const S gradient = widen(both[c]), value = widen(patch[c]);
                                dot += gradient * value;
                                sum[c] += mask * gradient;
                                narrow(both[c], mask * value);
                            }
                            narrow(dm[p * K + k], dot);
                        }
                }
            for (int64_t e = 0; e < size; ++e) narrow(dx[n * size + e], gathered[e]);
        }
    }
}

// Channels are taken in blocks of LANES, one vector each, so that sums stay in registers.
constexpr int LANES = 16;
template <class S> struct Vector {
    typedef S type __attribute__((vector_size(LANES * sizeof(S))));
};

// `count` channels of one tap, zeros beyond them.
template <class S, class T> static inline typename Vector<S>::type load(const T* from, int64_t count) {
    S lanes[LANES] = {};
    if (count == LANES)
        for (int b = 0; b < LANES; ++b) lanes[b] = widen(from[b]);
    else
        for (int64_t b = 0; b < count; ++b) lanes[b] = widen(from[b]);
    typename Vector<S>::type vector;
    std::memcpy(&vector, lanes, sizeof vector);
    return vector;
}

template <class S, class T> static inline void store(T* to, typename Vector<S>::type vector, int64_t count) {
    S lanes[LANES];
    std::memcpy(lanes, &vector, sizeof vector);
    if (count == LANES)
        for (int b = 0; b < LANES; ++b) narrow(to[b], lanes[b]);
    else
        for (int64_t b = 0; b < count; ++b) narrow(to[b], lanes[b]);
}

// FIXED: the number of taps when it is known to the compiler, else 0.
template <class T, int FIXED>
static void unconstrained_apply(const T* x, const T* m, T* u, const Geometry& g) {
    using S = typename Sum<T>::type;
    using V = typename Vector<S>::type;
    const int64_t C = g.channels, K = FIXED ? FIXED : g.kernel_height * g.kernel_width;
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<V> patch(K);
        std::vector<S> matrix(K * K);
        std::vector<int64_t> sources(K);
#pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < g.images; ++n)
            for (int64_t row = 0; row < g.out_height; ++row)
                for (int64_t column = 0; column < g.out_width; ++column) {
                    const int64_t p = (n * g.out_height + row) * g.out_width + column;
                    const T* image = x + n * g.height * g.width * C;
                    for (int64_t i = 0, k = 0; i < g.kernel_height; ++i)
                        for (int64_t j = 0; j < g.kernel_width; ++j, ++k) sources[k] = source(g, row, column, i, j);
                    for (int64_t e = 0; e < K * K; ++e) matrix[e] = widen(m[p * K * K + e]);
                    for (int64_t c = 0; c < C; c += LANES) {
                        const int64_t count = std::min<int64_t>(LANES, C - c);
                        for (int64_t l = 0; l < K; ++l)
                            patch[l] = sources[l] < 0 ? V{} : load<S>(image + sources[l] * C + c, count);
                        for (int64_t k = 0; k < K; ++k) {
                            V sum{};
                            for (int64_t l = 0; l < K; ++l) sum += matrix[k * K + l] * patch[l];
                            store<S>(u + (p * K + k) * C + c, sum, count);
                        }
                    }
                }
    }
}

// In: v = dL/du. Out: v = u, dm, dx. dM[k, l] = sum_c v[k, c] x[l, c] has the input taps l in its lanes, so that nothing
// has to be added up across lanes.
template <class T, int FIXED>
static void unconstrained_gradients(T* v, const T* x, const T* m, T* dm, T* dx, const Geometry& g) {
    using S = typename Sum<T>::type;
    using V = typename Vector<S>::type;
    const int64_t C = g.channels, K = FIXED ? FIXED : g.kernel_height * g.kernel_width;
    const int64_t N = (K + LANES - 1) / LANES;  // vectors a row of dM
    const int64_t size = g.height * g.width * C;
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<S> gathered(size), matrix(K * K);
        std::vector<V> patch(K), slope(K), across(N * LANES), row_of(K * N);
        std::vector<int64_t> sources(K);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < g.images; ++n) {
            std::fill(gathered.begin(), gathered.end(), S(0));
            for (int64_t row = 0; row < g.out_height; ++row)
                for (int64_t column = 0; column < g.out_width; ++column) {
                    const int64_t p = (n * g.out_height + row) * g.out_width + column;
                    for (int64_t i = 0, k = 0; i < g.kernel_height; ++i)
                        for (int64_t j = 0; j < g.kernel_width; ++j, ++k) sources[k] = source(g, row, column, i, j);
                    for (int64_t e = 0; e < K * K; ++e) matrix[e] = widen(m[p * K * K + e]);
                    for (V& entry : row_of) entry = V{};
                    for (int64_t c = 0; c < C; c += LANES) {
                        const int64_t count = std::min<int64_t>(LANES, C - c);
                        T* both = v + p * K * C + c;
                        for (int64_t l = 0; l < K; ++l) {
                            patch[l] = sources[l] < 0 ? V{} : load<S>(x + n * size + sources[l] * C + c, count);
                            slope[l] = load<S>(both + l * C, count);
                            for (int b = 0; b < LANES; ++b) across[b * N + l / LANES][l % LANES] = patch[l][b];
                        }
                        for (int64_t k = 0; k < K; ++k) {
                            for (int64_t part = 0; part < N; ++part) {
                                V sum = row_of[k * N + part];
                                for (int b = 0; b < LANES; ++b) sum += slope[k][b] * across[b * N + part];
                                row_of[k * N + part] = sum;
                            }
                            V sum{};
                            for (int64_t l = 0; l < K; ++l) sum += matrix[k * K + l] * patch[l];
                            store<S>(both + k * C, sum, count);
                        }
                        for (int64_t l = 0; l < K; ++l) {
                            if (sources[l] < 0) continue;
                            V sum{};
                            for (int64_t k = 0; k < K; ++k) sum += matrix[k * K + l] * slope[k];
                            S* target = gathered.data() + sources[l] * C + c;
                            store<S>(target, load<S>(target, count) + sum, count);
                        }
                    }
                    for (int64_t k = 0; k < K; ++k)
                        for (int64_t l = 0; l < K; ++l)
                            narrow(dm[(p * K + k) * K + l], row_of[k * N + l / LANES][l % LANES]);
                }
            for (int64_t e = 0; e < size; ++e) narrow(dx[n * size + e], gathered[e]);
        }
    }
}

// The middle of a predictor (paper 3.3): h = max(0, a t + b), t = z s, where z [P, C] are a convolution's outputs at P
// positions, s [P] the inverse patch norm (null: 1), and a, b [C] what batch norm amounts to. nsl/kernels/predictor_middle.py says what is
// computed; like there, t and h are made again in the backward pass.

// Order of fields: nsl/kernels/compiled.py.
struct Rows {
    int64_t positions, channels, threads;
};

// Sums over blocks of this many positions are added up in double.
constexpr int64_t BLOCK = 64;

// Calls body(first, last, own) for blocks of positions, `own` [N, C] being sums in the wide type; adds the blocks up in
// double, thread by thread, so that the result is the same every time.
template <int N, class S, class Body> static void sum_blocks(const Rows& g, double* total, Body body) {
    const int64_t blocks = (g.positions + BLOCK - 1) / BLOCK, width = N * g.channels;
    std::vector<double> sums(g.threads * width, 0.0);
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<S> own(width);
        std::vector<double> local(width, 0.0);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            std::fill(own.begin(), own.end(), S(0));
            body(block * BLOCK, std::min(g.positions, (block + 1) * BLOCK), own.data());
            for (int64_t e = 0; e < width; ++e) local[e] += own[e];
        }
        std::copy(local.begin(), local.end(), sums.begin() + omp_get_thread_num() * width);
    }
    std::fill(total, total + width, 0.0);
    for (int64_t t = 0; t < g.threads; ++t)
        for (int64_t e = 0; e < width; ++e) total[e] += sums[t * width + e];
}

// Out: the sum of a row's squares.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void row_energy(const T* x, S* energy, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (int64_t p = 0; p < g.positions; ++p) {
        const T* from = x + p * C;
        S sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; ++c) {
            const S value = widen(from[c]);
            sum += value * value;
        }
        energy[p] = sum;
    }
}

// Out: the slope of a row's energy on top of dx: dx + 2 e x.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void row_energy_gradient(T* dx, const T* x, const S* e, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (int64_t p = 0; p < g.positions; ++p) {
        const S twice = 2 * e[p];
        const T* from = x + p * C;
        T* to = dx + p * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) narrow(to[c], S(widen(to[c])) + twice * S(widen(from[c])));
    }
}

// Out: sums [2, C] of t - shift and of its square; a shift near the mean keeps the digits of the variance.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void middle_moments(const T* z, const S* s, const S* shift, double* sums, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
    sum_blocks<2, S>(g, sums, [=](int64_t first, int64_t last, S* own) {
        for (int64_t p = first; p < last; ++p) {
            const S scale = s ? s[p] : S(1);
            const T* from = z + p * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                const S value = scale * widen(from[c]) - shift[c];
                own[c] += value;
                own[C + c] += value * value;
            }
        }
    });
}

// Out: h, and unless energy is null the sum of each position's squares of it.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void middle_apply(const T* z, const S* s, const S* a, const S* b, T* h, S* energy, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (int64_t p = 0; p < g.positions; ++p) {
        const S scale = s ? s[p] : S(1);
        const T* from = z + p * C;
        T* to = h + p * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
            const S value = a[c] * (scale * widen(from[c])) + b[c];
            narrow(to[c], value < S(0) ? S(0) : value);  // NaN stays NaN
        }
        if (energy) {
            S sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < C; ++c) sum += S(widen(to[c])) * S(widen(to[c]));
            energy[p] = sum;
        }
    }
}

// Where h > 0, dL/dh by way of the second convolution, and 2 h e by way of h's energy, e [P] = dL/d energy (null: 0).

// Out: sums [2, C] of g and of g (t - mean), g = dL/dh where h > 0.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void middle_sums(const T* dh, const T* z, const S* s, const S* a, const S* b, const S* mean, const S* e,
    double* sums, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
    sum_blocks<2, S>(g, sums, [=](int64_t first, int64_t last, S* own) {
        for (int64_t p = first; p < last; ++p) {
            const S scale = s ? s[p] : S(1), twice = e ? 2 * e[p] : S(0);
            const T *from = z + p * C, *slope = dh + p * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                const S value = scale * widen(from[c]), u = a[c] * value + b[c];
                const S gradient = u > S(0) ? S(widen(slope[c])) + twice * u : S(0);
                own[c] += gradient;
                own[C + c] += gradient * (value - mean[c]);
            }
        }
    });
}

// In: dh. Out: dz in its place, and ds [P] unless s is null; dt = a g + k + q t.
template <class T, int FIXED, class S = typename Sum<T>::type>
static void middle_gradients(T* dh, const T* z, const S* s, const S* a, const S* b, const S* k, const S* q,
    const S* e, S* ds, const Rows& g) {
    const int64_t C = FIXED ? FIXED : g.channels;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (int64_t p = 0; p < g.positions; ++p) {
        const S scale = s ? s[p] : S(1), twice = e ? 2 * e[p] : S(0);
        const T* from = z + p * C;
        T* slope = dh + p * C;
        S dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < C; ++c) {
            const S raw = widen(from[c]), value = scale * raw, u = a[c] * value + b[c];
            const S gradient = u > S(0) ? S(widen(slope[c])) + twice * u : S(0);
            const S dt = a[c] * gradient + k[c] + q[c] * value;
            dot += dt * raw;
            narrow(slope[c], dt * scale);
        }
        if (s) ds[p] = dot;
    }
}

// Sums over the windows of a convolution, of maps of one channel: energy [n, H, W] to sums [n, Ho, Wo].
template <class S> static void window_sum(const S* energy, S* sums, const Geometry& g) {
    const int64_t reach = g.width + 2 * g.padding_width;
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<S> column(reach);  // sums over the window's rows, zeros in the padding
#pragma omp for schedule(static)
        for (int64_t n = 0; n < g.images; ++n)
            for (int64_t row = 0; row < g.out_height; ++row) {
                std::fill(column.begin(), column.end(), S(0));
                S *inner = column.data() + g.padding_width, *to = sums + (n * g.out_height + row) * g.out_width;
                for (int64_t i = 0; i < g.kernel_height; ++i) {
                    const int64_t h = row * g.stride_height - g.padding_height + i * g.dilation_height;
                    if (h < 0 || h >= g.height) continue;
                    const S* from = energy + (n * g.height + h) * g.width;
#pragma omp simd
                    for (int64_t w = 0; w < g.width; ++w) inner[w] += from[w];
                }
                std::fill(to, to + g.out_width, S(0));
                for (int64_t j = 0; j < g.kernel_width; ++j) {
                    const S* from = column.data() + j * g.dilation_width;
#pragma omp simd
                    for (int64_t w = 0; w < g.out_width; ++w) to[w] += from[w * g.stride_width];
                }
            }
    }
}

// The same backwards: slopes [n, Ho, Wo] of the sums to slopes [n, H, W] of the energy.
template <class S> static void window_spread(const S* slopes, S* energy, const Geometry& g) {
    const int64_t reach = g.width + 2 * g.padding_width, size = g.height * g.width;
#pragma omp parallel num_threads(g.threads)
    {
        std::vector<S> column(reach);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < g.images; ++n) {
            std::fill(energy + n * size, energy + (n + 1) * size, S(0));
            for (int64_t row = 0; row < g.out_height; ++row) {
                std::fill(column.begin(), column.end(), S(0));
                const S *inner = column.data() + g.padding_width, *from = slopes + (n * g.out_height + row) * g.out_width;
                for (int64_t j = 0; j < g.kernel_width; ++j) {
                    S* to = column.data() + j * g.dilation_width;
#pragma omp simd
                    for (int64_t w = 0; w < g.out_width; ++w) to[w * g.stride_width] += from[w];
                }
                for (int64_t i = 0; i < g.kernel_height; ++i) {
                    const int64_t h = row * g.stride_height - g.padding_height + i * g.dilation_height;
                    if (h < 0 || h >= g.height) continue;
                    S* to = energy + n * size + h * g.width;
#pragma omp simd
                    for (int64_t w = 0; w < g.width; ++w) to[w] += inner[w];
                }
            }
        }
    }
}

// Loops of known length are about twice as fast; these are the lengths of the paper's networks.
#define BY_CHANNELS(FUNCTION, T, ...)                                  \
    switch (g->channels) {                                             \
        case 16: return FUNCTION<T, 16>(__VA_ARGS__, *g);              \
        case 32: return FUNCTION<T, 32>(__VA_ARGS__, *g);              \
        case 64: return FUNCTION<T, 64>(__VA_ARGS__, *g);              \
        case 128: return FUNCTION<T, 128>(__VA_ARGS__, *g);            \
        default: return FUNCTION<T, 0>(__VA_ARGS__, *g);               \
    }
#define BY_TAPS(FUNCTION, T, ...)                                      \
    if (g->kernel_height * g->kernel_width == 9) return FUNCTION<T, 9>(__VA_ARGS__, *g); \
    return FUNCTION<T, 0>(__VA_ARGS__, *g);

#define EXPORT(SUFFIX, T)                                                                                             \
    extern "C" void diagonal_apply_##SUFFIX(const T* x, const T* m, T* u, const Geometry* g) {                        \
        BY_CHANNELS(diagonal_apply, T, x, m, u)                                                                       \
    }                                                                                                                 \
    extern "C" void diagonal_gradients_##SUFFIX(T* v, const T* x, const T* m, T* dm, T* dx, const Geometry* g) {      \
        BY_CHANNELS(diagonal_gradients, T, v, x, m, dm, dx)                                                           \
    }                                                                                                                 \
    extern "C" void unconstrained_apply_##SUFFIX(const T* x, const T* m, T* u, const Geometry* g) {                   \
        BY_TAPS(unconstrained_apply, T, x, m, u)                                                                      \
    }                                                                                                                 \
    extern "C" void unconstrained_gradients_##SUFFIX(T* v, const T* x, const T* m, T* dm, T* dx, const Geometry* g) { \
        BY_TAPS(unconstrained_gradients, T, v, x, m, dm, dx)                                                          \
    }                                                                                                                 \
    extern "C" void row_energy_##SUFFIX(const T* x, Sum<T>::type* energy, const Rows* g) {                            \
        BY_CHANNELS(row_energy, T, x, energy)                                                                         \
    }                                                                                                                 \
    extern "C" void row_energy_gradient_##SUFFIX(T* dx, const T* x, const Sum<T>::type* e, const Rows* g) {           \
        BY_CHANNELS(row_energy_gradient, T, dx, x, e)                                                                 \
    }                                                                                                                 \
    extern "C" void middle_moments_##SUFFIX(                                                                          \
        const T* z, const Sum<T>::type* s, const Sum<T>::type* shift, double* sums, const Rows* g) {                  \
        BY_CHANNELS(middle_moments, T, z, s, shift, sums)                                                             \
    }                                                                                                                 \
    extern "C" void middle_apply_##SUFFIX(                                                                            \
        const T* z, const Sum<T>::type* s, const Sum<T>::type* a, const Sum<T>::type* b, T* h,                        \
        Sum<T>::type* energy, const Rows* g) {                                                                        \
        BY_CHANNELS(middle_apply, T, z, s, a, b, h, energy)                                                           \
    }                                                                                                                 \
    extern "C" void middle_sums_##SUFFIX(const T* dh, const T* z, const Sum<T>::type* s, const Sum<T>::type* a,       \
        const Sum<T>::type* b, const Sum<T>::type* mean, const Sum<T>::type* e, double* sums, const Rows* g) {        \
        BY_CHANNELS(middle_sums, T, dh, z, s, a, b, mean, e, sums)                                                    \
    }                                                                                                                 \
    extern "C" void middle_gradients_##SUFFIX(T* dh, const T* z, const Sum<T>::type* s, const Sum<T>::type* a,        \
        const Sum<T>::type* b, const Sum<T>::type* k, const Sum<T>::type* q, const Sum<T>::type* e, Sum<T>::type* ds, \
        const Rows* g) {                                                                                              \
        BY_CHANNELS(middle_gradients, T, dh, z, s, a, b, k, q, e, ds)                                                 \
    }

EXPORT(float32, float)
EXPORT(float64, double)
EXPORT(bfloat16, bfloat16)

#define EXPORT_WINDOWS(SUFFIX, S)                                                                                     \
    extern "C" void window_sum_##SUFFIX(const S* energy, S* sums, const Geometry* g) { window_sum(energy, sums, *g); } \
    extern "C" void window_spread_##SUFFIX(const S* slopes, S* energy, const Geometry* g) {                           \
        window_spread(slopes, energy, *g);                                                                            \
    }

EXPORT_WINDOWS(float32, float)
EXPORT_WINDOWS(float64, double)
