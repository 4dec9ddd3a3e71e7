// Local response normalisation of a chunk of channels of one pixel, in registers (kernels/normaliser.rs).
//
// A thread holds CHUNK neighbouring channels and as many beyond as its windows reach, read again
// rather than exchanged with the neighbouring threads: they are in the first-level cache, and no thread waits.
// GROUP channels are normalised apart from the others; CHUNK divides GROUP. LRN_SIZE is odd; 0 without LRN.

static_assert(LRN_SIZE == 0 || LRN_SIZE % 2 == 1, "the window has a middle");
constexpr int REACH = LRN_SIZE / 2;

struct Rule {
    Wide k, alpha, beta;
};

// A chunk and HALO channels on each side as they lie in memory; zeros outside the group.
template <int HALO>
struct Neighbourhood {
    static constexpr int STEP = common_power_of_two(CHUNK, HALO, 8);
    static constexpr int PARTS = HALO / STEP;
    Elements<CHUNK> middle;
    // One more than there are: no array has none.
    Elements<STEP> left[PARTS + 1], right[PARTS + 1];

    // The chunk begins at channel `first` of its group.
    __device__ inline void read(const Real* chunk, int first) {
        middle.read(true, chunk);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            int i = part * STEP;
            left[part].read(first >= HALO - i, chunk - HALO + i);
            right[part].read(first < GROUP - CHUNK - i, chunk + CHUNK + i);
        }
    }
    __device__ inline void add(const Neighbourhood& other) {
        middle.add(other.middle);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            left[part].add(other.left[part]);
            right[part].add(other.right[part]);
        }
    }
    template <Activation ACTIVATION>
    __device__ inline void widen_to(Wide (&to)[CHUNK + 2 * HALO]) const {
        middle.template widen_to<ACTIVATION>(to + HALO);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            int i = part * STEP;
            left[part].template widen_to<ACTIVATION>(to + i);
            right[part].template widen_to<ACTIVATION>(to + HALO + CHUNK + i);
        }
    }
};

// The activations of a chunk and of HALO channels on each side; zero outside the group, in which the chunk begins
// at channel `first`.
template <int HALO, Activation ACTIVATION>
__device__ inline void load_chunk(const Real* chunk, int first, Wide (&to)[CHUNK + 2 * HALO]) {
    Neighbourhood<HALO> neighbourhood;
    neighbourhood.read(chunk, first);
    neighbourhood.template widen_to<ACTIVATION>(to);
}

// Denominators are normal numbers: flushing those that are not to zero costs nothing but their handling.
#ifdef __CUDA_ARCH__
__device__ inline float inverse_root(float d) {
    float r;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    return r;
}
__device__ inline float root(float d) {
    float r;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    return r;
}
#else
__device__ inline float inverse_root(float d) { return 1 / sqrtf(d); }
__device__ inline float root(float d) { return sqrtf(d); }
#endif
__device__ inline double inverse_root(double d) { return 1 / sqrt(d); }
__device__ inline double root(double d) { return sqrt(d); }

// d^-beta, and 1 / d in `inverse`. Both 0 for an infinite d.
__device__ inline Wide power(Wide d, const Rule& rule, Wide& inverse) {
#if THREE_QUARTERS
    Wide r = inverse_root(d);
    inverse = r * r;
    return r * root(r);
#else
    inverse = 1 / d;
    return pow(d, -rule.beta);
#endif
}

// The sums over all windows of `values`, by doubling: sums of four are sums of two sums of two.
template <int N>
__device__ inline void window_sums(const Wide (&values)[N + 2 * REACH], Wide (&sums)[N]) {
    Wide partial[N + 2 * REACH];
#pragma unroll
    for (int i = 0; i < N + 2 * REACH; ++i) partial[i] = values[i];
    int added = 0;
#pragma unroll
    for (int width = 1; width <= LRN_SIZE; width *= 2) {
        if (LRN_SIZE & width) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                sums[i] = added == 0 ? partial[i] : sums[i] + partial[i + added];
            }
            added += width;
        }
#pragma unroll
        for (int i = 0; i + width < N + 2 * REACH; ++i) partial[i] += partial[i + width];
    }
}

// k + alpha * the sum of squares, for each window of `a`.
template <int N>
__device__ inline void denominators(
    const Wide (&a)[N + 2 * REACH], const Rule& rule, Wide (&to)[N]) {
    Wide squares[N + 2 * REACH];
#pragma unroll
    for (int i = 0; i < N + 2 * REACH; ++i) squares[i] = a[i] * a[i];
    window_sums<N>(squares, to);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = rule.k + rule.alpha * to[i];
}

// The normalised chunk, from activations with REACH more on each side.
__device__ inline void normalise(
    const Wide (&a)[CHUNK + 2 * REACH], const Rule& rule, Wide (&y)[CHUNK]) {
    denominators<CHUNK>(a, rule, y);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        Wide inverse;
        y[i] = a[REACH + i] * power(y[i], rule, inverse);
    }
}

// The gradient of the chunk's activations, from activations with 2 REACH more on each side and the
// gradient of the normalised values with REACH more.
__device__ inline void differentiate(
    const Wide (&a)[CHUNK + 4 * REACH], const Wide (&dy)[CHUNK + 2 * REACH], int first,
    const Rule& rule, Wide (&da)[CHUNK]) {
    Wide product[CHUNK + 2 * REACH], scaled[CHUNK + 2 * REACH];
    denominators<CHUNK + 2 * REACH>(a, rule, product);
#pragma unroll
    for (int i = 0; i < CHUNK + 2 * REACH; ++i) {
        Wide inverse;
        scaled[i] = dy[i] * power(product[i], rule, inverse);
        product[i] = scaled[i] * a[REACH + i] * inverse;
        if (i < REACH || i >= REACH + CHUNK) {
            // Outside the group the activation is zero, and a NaN in the window must not get through.
            bool inside = i < REACH ? first >= REACH - i : first < GROUP + REACH - i;
            product[i] = inside ? product[i] : Wide(0);
        }
    }
    Wide cross = 2 * rule.alpha * rule.beta, sums[CHUNK];
    window_sums<CHUNK>(product, sums);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        da[i] = scaled[REACH + i] - cross * a[2 * REACH + i] * sums[i];
    }
}
