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

// The value that would be read back.
__device__ inline Wide rounded(Wide x) {
    Real to;
    narrow(x, to);
    return widen(to);
}

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
