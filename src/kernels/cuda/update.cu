// The optimisers' updates of the flat parameter arena, one pass over memory each, bit for bit
// kernels/update.rs (multiplications and additions are not contracted):
//   momentum:  v = momentum v - decay lr w - lr g;  w = w + v
//   Adam:      g = g + decay w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
//              w = w - rate m / (sqrt(v) unbias + eps)
//
// Bytes moved per element, fp32 weights and bf16 gradients and copy: 8 + 2 read and 8 + 2 written for momentum.
// One launch updates many runs of elements, each with its own rate: blockIdx.y is the run.

// Elements a thread updates at a time: 16 bytes of fp32.
constexpr int LANES = 4;

// Where a run begins: in the gradient and the copy, in the weights, in the optimiser's state.
struct Place {
    unsigned long long gradient, weight, state, length;
};

struct Rates {
    Wide lr, decay;
};

struct Places {
    Place run[MAX_RUNS];
};

struct AllRates {
    Rates run[MAX_RUNS];
};

// Calls body.at<number of elements>(first element) until all of a run are done.
template <typename Body>
__device__ inline void for_each_pack(unsigned long long length, const Body& body) {
    unsigned long long stride = (unsigned long long)gridDim.x * THREADS;
    unsigned long long thread = (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
    unsigned long long packs = length / LANES;
    for (unsigned long long i = thread; i < packs; i += stride) body.template at<LANES>(i * LANES);
    unsigned long long rest = packs * LANES + thread;
    if (rest < length) body.template at<1>(rest);
}

// Stores new weights, and their copy where there is one.
template <int N>
__device__ inline void store_weights(
    Wide* weights, Bf16* copy, const Pack<Wide, N>& w) {
    store(weights, w);
    if (copy) store_rounded(copy, w.at);
}

struct Momentum {
    Wide *weights, *velocity;
    const Real* gradient;
    Bf16* copy;
    Wide momentum, shrink, lr;

    template <int N>
    __device__ inline void at(unsigned long long i) const {
        Pack<Wide, N> w = load<N>((const Wide*)weights + i), v = load<N>((const Wide*)velocity + i);
        Pack<Real, N> g = load<N>(gradient + i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            v.at[j] = momentum * v.at[j] - shrink * w.at[j] - lr * widen(g.at[j]);
            w.at[j] = w.at[j] + v.at[j];
        }
        store(velocity + i, v);
        store_weights<N>(weights + i, copy ? copy + i : copy, w);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    momentum(Wide* __restrict__ weights, Wide* __restrict__ velocity,
             const Real* __restrict__ gradient, Bf16* __restrict__ copy, Wide momentum,
             const __grid_constant__ Places places, const __grid_constant__ AllRates rates) {
    const Place& run = places.run[blockIdx.y];
    const Rates& rate = rates.run[blockIdx.y];
    Momentum body = {
        weights + run.weight, velocity + run.state, gradient + run.gradient,
        copy ? copy + run.gradient : copy, momentum, rate.decay, rate.lr,
    };
    for_each_pack(run.length, body);
}

struct Adam {
    Wide *weights, *mean, *variance;
    const Real* gradient;
    Bf16* copy;
    Wide keep1, take1, keep2, take2, unbias, eps, rate, decay;

    template <int N>
    __device__ inline void at(unsigned long long i) const {
        Pack<Wide, N> w = load<N>((const Wide*)weights + i);
        Pack<Wide, N> m = load<N>((const Wide*)mean + i), v = load<N>((const Wide*)variance + i);
        Pack<Real, N> raw = load<N>(gradient + i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            Wide g = widen(raw.at[j]) + decay * w.at[j];
            m.at[j] = keep1 * m.at[j] + take1 * g;
            v.at[j] = keep2 * v.at[j] + take2 * g * g;
            w.at[j] = w.at[j] - rate * m.at[j] / (sqrt(v.at[j]) * unbias + eps);
        }
        store(mean + i, m);
        store(variance + i, v);
        store_weights<N>(weights + i, copy ? copy + i : copy, w);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    adam(Wide* __restrict__ weights, Wide* __restrict__ mean, Wide* __restrict__ variance,
         const Real* __restrict__ gradient, Bf16* __restrict__ copy, Wide keep1, Wide take1,
         Wide keep2, Wide take2, Wide unbias, Wide eps, const __grid_constant__ Places places,
         const __grid_constant__ AllRates rates) {
    const Place& run = places.run[blockIdx.y];
    const Rates& rate = rates.run[blockIdx.y];
    Adam body = {
        weights + run.weight, mean + run.state, variance + run.state, gradient + run.gradient,
        copy ? copy + run.gradient : copy, keep1, take1, keep2, take2, unbias, eps, rate.lr, rate.decay,
    };
    for_each_pack(run.length, body);
}
