// Softmax cross-entropy and its gradient, one block per row (net/loss.rs has it in libtorch's operations):
//   loss = scale (log(sum of exp(l_c - max)) + max - l_label);  dl_c = scale (softmax_c - [c = label])
//
// Bytes moved: logits are read from memory once and twice more from the caches; the gradient is written once.

// The result of combining all threads' values, for all threads; `shared` holds one value for each.
template <typename Combine>
__device__ inline Wide over_block(Wide value, Wide* shared, Combine combine) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
        }
        __syncthreads();
    }
    Wide result = shared[0];
    __syncthreads();
    return result;
}

struct Larger {
    // A NaN wins, so that it reaches the loss.
    __device__ Wide operator()(Wide a, Wide b) const { return a > b || a != a ? a : b; }
};

struct Sum {
    __device__ Wide operator()(Wide a, Wide b) const { return a + b; }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy(const Real* __restrict__ logits, const long long* __restrict__ labels,
                  Real* __restrict__ dlogits, Wide* __restrict__ losses, unsigned classes,
                  Wide scale) {
    __shared__ Wide shared[THREADS];
    const Real* row = logits + size_t(blockIdx.x) * classes;
    Real* gradient = dlogits + size_t(blockIdx.x) * classes;
    long long label = labels[blockIdx.x];

    Wide largest = widen(row[0]);
    for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
        largest = Larger()(widen(row[c]), largest);
    }
    largest = over_block(largest, shared, Larger());
    Wide sum = 0;
    for (unsigned c = threadIdx.x; c < classes; c += THREADS) sum += exp(widen(row[c]) - largest);
    sum = over_block(sum, shared, Sum());
    for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
        Wide p = exp(widen(row[c]) - largest) / sum;
        narrow((p - (c == label ? Wide(1) : Wide(0))) * scale, gradient[c]);
    }
    if (threadIdx.x == 0) {
        // A label that is no class has no loss: not a number, so that the step stops.
        bool valid = label >= 0 && label < classes;
        Wide own = valid ? widen(row[label]) : Wide(__uint_as_float(0x7fc00000));
        losses[blockIdx.x] = (log(sum) + largest - own) * scale;
    }
}
