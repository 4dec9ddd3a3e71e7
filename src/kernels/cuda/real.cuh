// Element types, as kernels/real.rs has them for the CPU. ELEMENT_BITS is 16 (bfloat16), 32 or 64.
//
// bfloat16 is a type of our own, with the CPU's rounding: the compiler's header is not part of NVRTC, and the
// text also compiles as C++ for the tests that run it without a GPU.

struct Bf16 {
    unsigned short bits;
};

__device__ inline float widen(Bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }

// To nearest, ties to even; NaN stays NaN.
__device__ inline void narrow(float x, Bf16& to) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    unsigned bits = __float_as_uint(x);
    to.bits = (x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
}
__device__ inline void narrow(double x, Bf16& to) { narrow((float)x, to); }
__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(float x, double& to) { to = x; }
__device__ inline void narrow(double x, double& to) { to = x; }

// Two elements in a word, the first in its low half.
__device__ inline unsigned rounded_pair(float low, float high) {
#ifdef __CUDA_ARCH__
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    Bf16 halves[2];
    narrow(low, halves[0]);
    narrow(high, halves[1]);
    return halves[1].bits << 16 | halves[0].bits;
#endif
}

#if ELEMENT_BITS == 16
typedef Bf16 Real;   // what is stored
typedef float Wide;  // what is computed in
#elif ELEMENT_BITS == 32
typedef float Real;
typedef float Wide;
#else
typedef double Real;
typedef double Wide;
#endif

// N elements that are loaded and stored together, 16 bytes at a time where there are as many.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T at[N];
};

template <int N, typename T>
__device__ inline Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T>
__device__ inline void store(T* to, const Pack<T, N>& pack) {
    if constexpr (sizeof(pack) % sizeof(uint4) == 0) {
        // By a type of the compiler's own, which it does not take apart.
        const uint4* from = reinterpret_cast<const uint4*>(&pack);
#pragma unroll
        for (int i = 0; i < sizeof(pack) / sizeof(uint4); ++i) {
            reinterpret_cast<uint4*>(to)[i] = from[i];
        }
    } else {
        *reinterpret_cast<Pack<T, N>*>(to) = pack;
    }
}

// Asks for what lies there to be brought into the second-level cache.
__device__ inline void prefetch_line(const void* at) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

// max(x, 0), with NaN for NaN.
__device__ inline double relu(double x) { return x <= 0 ? 0 : x; }
__device__ inline float relu(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
    return y;
#else
    return x <= 0 ? 0 : x;
#endif
}

// bfloat16 comes two to a word, the first in its low half, and is made of them in one operation each.
__device__ inline void unpack_pair(unsigned pair, float* to) {
    to[0] = __uint_as_float(pair << 16);
    to[1] = __uint_as_float(pair & 0xffff0000u);
}

__device__ inline unsigned relu_pair(unsigned pair) {
#ifdef __CUDA_ARCH__
    unsigned y;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(pair), "r"(0));
    return y;
#else
    float halves[2];
    unpack_pair(pair, halves);
    return rounded_pair(relu(halves[0]), relu(halves[1]));
#endif
}

// The sums of two pairs, each rounded to an element.
__device__ inline unsigned add_pairs(unsigned a, unsigned b) {
#ifdef __CUDA_ARCH__
    // Ampere has no addition of pairs; a product with one is exact.
    unsigned sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80), "r"(b));
    return sum;
#else
    float x[2], y[2];
    unpack_pair(a, x);
    unpack_pair(b, y);
    return rounded_pair(x[0] + y[0], x[1] + y[1]);
#endif
}

enum Activation { IDENTITY, RELU };

// N neighbouring elements as they lie in memory.
#if ELEMENT_BITS == 16
template <int N>
struct Elements {
    // A single one lies in the low half.
    unsigned words[N > 1 ? N / 2 : 1];

    // Zeros where `inside` is false.
    __device__ inline void read(bool inside, const Bf16* from) {
        if constexpr (N == 1) {
            words[0] = inside ? from->bits : 0;
        } else {
            Pack<unsigned, N / 2> pairs = {};
            if (inside) pairs = load<N / 2>(reinterpret_cast<const unsigned*>(from));
#pragma unroll
            for (int i = 0; i < N / 2; ++i) words[i] = pairs.at[i];
        }
    }
    // Each sum is rounded to an element.
    __device__ inline void add(const Elements& other) {
#pragma unroll
        for (int i = 0; i < (N + 1) / 2; ++i) words[i] = add_pairs(words[i], other.words[i]);
    }
    template <Activation ACTIVATION>
    __device__ inline void widen_to(float* to) const {
#pragma unroll
        for (int i = 0; i < (N + 1) / 2; ++i) {
            float pair[2];
            unpack_pair(ACTIVATION == RELU ? relu_pair(words[i]) : words[i], pair);
            to[2 * i] = pair[0];
            if (2 * i + 1 < N) to[2 * i + 1] = pair[1];
        }
    }
};
#else
template <int N>
struct Elements {
    Pack<Real, N> pack;

    __device__ inline void read(bool inside, const Real* from) {
        pack = {};
        if (inside) pack = load<N>(from);
    }
    __device__ inline void add(const Elements& other) {
#pragma unroll
        for (int i = 0; i < N; ++i) pack.at[i] += other.pack.at[i];
    }
    template <Activation ACTIVATION>
    __device__ inline void widen_to(Wide* to) const {
#pragma unroll
        for (int i = 0; i < N; ++i) to[i] = ACTIVATION == RELU ? relu(pack.at[i]) : pack.at[i];
    }
};
#endif

// Reads N activations into `to`; zeros where `inside` is false.
template <int N, Activation ACTIVATION>
__device__ inline void load_wide(bool inside, const Real* from, Wide* to) {
    Elements<N> elements;
    elements.read(inside, from);
    elements.template widen_to<ACTIVATION>(to);
}

// Replaces values by what elements would keep of them.
template <int N>
__device__ inline void round_to_elements(Wide (&values)[N]) {
#if ELEMENT_BITS == 16
#pragma unroll
    for (int i = 0; i + 1 < N; i += 2) {
        unpack_pair(rounded_pair(values[i], values[i + 1]), values + i);
    }
    if constexpr (N % 2 == 1) {
        Bf16 last;
        narrow(values[N - 1], last);
        values[N - 1] = widen(last);
    }
#endif
}

// Writes N values, rounded to elements.
template <int N, typename W, typename T>
__device__ inline void store_rounded(T* to, const W (&values)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) narrow(values[i], pack.at[i]);
    store(to, pack);
}

// As words of two elements: stores of 16-bit parts would stay apart.
template <int N>
__device__ inline void store_rounded(Bf16* to, const float (&values)[N]) {
    if constexpr (N == 1) {
        narrow(values[0], *to);
    } else {
        Pack<unsigned, N / 2> pack;
#pragma unroll
        for (int i = 0; i < N / 2; ++i) pack.at[i] = rounded_pair(values[2 * i], values[2 * i + 1]);
        store(reinterpret_cast<unsigned*>(to), pack);
    }
}

// The largest power of two that divides all of them.
__device__ constexpr int common_power_of_two(int a, int b, int c) {
    return (a | b | c) & -(a | b | c);
}
