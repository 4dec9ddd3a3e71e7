// Enough of NCCL for ranks that are threads of one process, on the streams of cuda.cpp: an operation begins when its
// stream gets there, and ends when all ranks of the group have come and gone.
//
// Ranks that begin different operations get an error, where NCCL would hang or mix them up. What this cannot show: how
// NCCL moves data, and what its kernels occupy on a GPU.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

extern "C" {
int cuCtxGetCurrent(void** context);
int cuStreamGetCtx(void* stream, void** context);
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data);
}

namespace {

// NCCL's numbers for these.
enum Result {
    SUCCESS = 0,
    UNHANDLED_CUDA_ERROR = 1,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
};
enum Type { UINT8 = 1, INT64 = 4, FLOAT32 = 7, FLOAT64 = 8, BFLOAT16 = 9 };
constexpr int SUM = 0;

struct UniqueId {
    char internal[128];
};

// Long enough for a reader who does not wait for the result to be found out.
constexpr auto LAG = std::chrono::microseconds(100);

size_t size_of(Type type) {
    switch (type) {
        case UINT8: return 1;
        case BFLOAT16: return 2;
        case FLOAT32: return 4;
        case INT64:
        case FLOAT64: return 8;
    }
    return 0;
}

struct Bfloat16 {
    uint16_t bits;

    // To the nearest, ties to even.
    explicit Bfloat16(float x) {
        uint32_t wide;
        memcpy(&wide, &x, sizeof wide);
        bits = uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &wide, sizeof x);
        return x;
    }
};

struct Part {
    int peer;
    char* at;
    size_t num_bytes;
};

enum class Kind { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, EXCHANGE };

struct Operation {
    Kind kind;
    const char* from = nullptr;
    char* to = nullptr;
    size_t count = 0;
    Type type = UINT8;
    int root = 0;
    // Of an exchange.
    std::vector<Part> sent, received;

    bool agrees_with(const Operation& other) const {
        return kind == other.kind && count == other.count && type == other.type && root == other.root;
    }
};

struct Communicator;

struct Group {
    std::mutex mutex;
    std::condition_variable changed;
    int size = 0;
    int num_come = 0;
    unsigned round = 0;
    bool is_broken = false;
    std::vector<const Operation*> operations;

    // Waits for all ranks; false once `rank` is aborted.
    bool meet(const Communicator& rank);
};

struct Communicator {
    std::shared_ptr<Group> group;
    int rank;
    void* context;
    // The rest under the group's lock.
    bool is_aborted = false;
    int num_open = 0;
    Result error = SUCCESS;
};

bool Group::meet(const Communicator& rank) {
    std::unique_lock lock(mutex);
    if (++num_come == size && !is_broken) {
        num_come = 0;
        ++round;
        changed.notify_all();
    } else {
        unsigned entered = round;
        changed.wait(lock, [&] { return round != entered || rank.is_aborted; });
    }
    return !rank.is_aborted;
}

std::mutex handles;
std::map<int, std::shared_ptr<Group>> groups;
std::map<void*, std::shared_ptr<Communicator>> communicators;

std::shared_ptr<Communicator> find(void* handle) {
    std::lock_guard lock(handles);
    auto found = communicators.find(handle);
    return found == communicators.end() ? nullptr : found->second;
}

std::shared_ptr<Communicator> take(void* handle) {
    std::shared_ptr<Communicator> taken = find(handle);
    std::lock_guard lock(handles);
    communicators.erase(handle);
    return taken;
}

// The sums of elements `first` and on, over all ranks.
template <class T, class Wide>
void add(const Group& group, size_t first, std::vector<char>& out) {
    for (size_t i = 0; i < out.size() / sizeof(T); ++i) {
        Wide sum = 0;
        for (const Operation* operation : group.operations) {
            sum += Wide(reinterpret_cast<const T*>(operation->from)[first + i]);
        }
        reinterpret_cast<T*>(out.data())[i] = T(sum);
    }
}

std::vector<char> sums(const Group& group, const Operation& own, size_t first) {
    std::vector<char> out(own.count * size_of(own.type));
    switch (own.type) {
        case UINT8: add<uint8_t, uint8_t>(group, first, out); break;
        case INT64: add<int64_t, int64_t>(group, first, out); break;
        case FLOAT32: add<float, float>(group, first, out); break;
        case FLOAT64: add<double, double>(group, first, out); break;
        case BFLOAT16: add<Bfloat16, float>(group, first, out); break;
    }
    return out;
}

// What `rank` receives from each of its peers, in the order it asked for; short if somebody did not send it.
std::vector<char> exchanged(const Group& group, const Operation& own, int rank) {
    std::vector<char> out;
    for (const Part& wanted : own.received) {
        for (const Part& part : group.operations[wanted.peer]->sent) {
            if (part.peer == rank && part.num_bytes == wanted.num_bytes) {
                out.insert(out.end(), part.at, part.at + part.num_bytes);
            }
        }
    }
    return out;
}

// What the operation leaves on `rank`.
std::vector<char> result(const Group& group, const Operation& own, int rank) {
    size_t num_bytes = own.count * size_of(own.type);
    std::vector<char> out;
    switch (own.kind) {
        case Kind::ALL_REDUCE: return sums(group, own, 0);
        case Kind::REDUCE_SCATTER: return sums(group, own, rank * own.count);
        case Kind::EXCHANGE: return exchanged(group, own, rank);
        case Kind::BROADCAST: {
            const char* root = group.operations[own.root]->from;
            return std::vector<char>(root, root + num_bytes);
        }
        case Kind::ALL_GATHER:
            for (const Operation* operation : group.operations) {
                out.insert(out.end(), operation->from, operation->from + num_bytes);
            }
    }
    return out;
}

// Where the bytes of a result go.
std::vector<Part> places(const Operation& own, size_t num_bytes) {
    return own.kind == Kind::EXCHANGE ? own.received : std::vector<Part>{{0, own.to, num_bytes}};
}

// An operation in a stream.
struct Issued {
    std::shared_ptr<Communicator> communicator;
    Operation operation;

    void run() {
        Communicator& rank = *communicator;
        Group& group = *rank.group;
        std::this_thread::sleep_for(LAG);
        bool is_done = carry_out(group, rank);
        std::lock_guard lock(group.mutex);
        if (!is_done && !rank.is_aborted) {
            rank.error = INVALID_USAGE;
        }
        --rank.num_open;
        group.changed.notify_all();
    }

private:
    bool carry_out(Group& group, const Communicator& rank) {
        group.operations[rank.rank] = &operation;
        if (!group.meet(rank)) {
            return false;
        }
        bool is_same = true;
        for (const Operation* other : group.operations) {
            is_same = is_same && operation.agrees_with(*other);
        }
        std::vector<char> bytes;
        if (is_same) {
            bytes = result(group, operation, rank.rank);
        }
        // Nobody's tensors change before all have been read.
        if (!group.meet(rank) || !is_same) {
            return false;
        }
        size_t at = 0;
        for (const Part& place : places(operation, bytes.size())) {
            if (at + place.num_bytes > bytes.size()) {
                return false;
            }
            memcpy(place.at, bytes.data() + at, place.num_bytes);
            at += place.num_bytes;
        }
        return true;
    }
};

Result issue(void* handle, void* stream, Operation operation) {
    std::shared_ptr<Communicator> communicator = find(handle);
    if (!communicator || size_of(operation.type) == 0) {
        return INVALID_ARGUMENT;
    }
    void* context = nullptr;
    if (cuStreamGetCtx(stream, &context) != 0 || context != communicator->context) {
        return UNHANDLED_CUDA_ERROR;
    }
    {
        std::lock_guard lock(communicator->group->mutex);
        ++communicator->num_open;
    }
    auto run = [](void* issued) {
        static_cast<Issued*>(issued)->run();
        delete static_cast<Issued*>(issued);
    };
    int launched = cuLaunchHostFunc(stream, run, new Issued{communicator, std::move(operation)});
    return launched == 0 ? SUCCESS : UNHANDLED_CUDA_ERROR;
}

// What a thread has asked for between the start and the end of a group of calls.
struct Open {
    bool is_open = false;
    void* communicator = nullptr;
    void* stream = nullptr;
    Operation exchange{Kind::EXCHANGE};
};
thread_local Open open;

Result part(std::vector<Part> Operation::*parts, Part part, void* communicator, void* stream) {
    if (!open.is_open) {
        return INVALID_USAGE;  // NCCL would make an operation of it alone, which its peer cannot answer
    }
    open.communicator = communicator;
    open.stream = stream;
    (open.exchange.*parts).push_back(part);
    return SUCCESS;
}

}  // namespace

extern "C" {

Result ncclGetVersion(int* version) {
    *version = 22809;
    return SUCCESS;
}

const char* ncclGetErrorString(Result result) {
    return result == INVALID_USAGE ? "invalid usage" : "another error";
}

const char* ncclGetLastError(void*) {
    return "";
}

Result ncclGetUniqueId(UniqueId* id) {
    static int num_ids = 0;
    std::lock_guard lock(handles);
    int number = num_ids++;
    groups[number] = std::make_shared<Group>();
    memcpy(id->internal, &number, sizeof number);
    return SUCCESS;
}

Result ncclCommInitRank(void** handle, int size, UniqueId id, int rank) {
    void* context = nullptr;
    cuCtxGetCurrent(&context);
    if (context == nullptr) {
        return UNHANDLED_CUDA_ERROR;
    }
    int number;
    memcpy(&number, id.internal, sizeof number);
    std::shared_ptr<Communicator> communicator;
    {
        std::lock_guard lock(handles);
        auto found = groups.find(number);
        if (found == groups.end() || rank >= size) {
            return INVALID_ARGUMENT;
        }
        communicator.reset(new Communicator{found->second, rank, context});
        communicators[communicator.get()] = communicator;
    }
    {
        std::lock_guard lock(communicator->group->mutex);
        communicator->group->size = size;
        communicator->group->operations.resize(size);
    }
    communicator->group->meet(*communicator);
    *handle = communicator.get();
    return SUCCESS;
}

Result ncclAllReduce(
    const char* from, char* to, size_t count, Type type, int reduction, void* communicator, void* stream) {
    if (reduction != SUM) {
        return INVALID_ARGUMENT;
    }
    return issue(communicator, stream, {Kind::ALL_REDUCE, from, to, count, type});
}

Result ncclReduceScatter(
    const char* from, char* to, size_t count, Type type, int reduction, void* communicator, void* stream) {
    if (reduction != SUM) {
        return INVALID_ARGUMENT;
    }
    return issue(communicator, stream, {Kind::REDUCE_SCATTER, from, to, count, type});
}

Result ncclAllGather(
    const char* from, char* to, size_t count, Type type, void* communicator, void* stream) {
    return issue(communicator, stream, {Kind::ALL_GATHER, from, to, count, type});
}

Result ncclBroadcast(
    const char* from, char* to, size_t count, Type type, int root, void* communicator, void* stream) {
    return issue(communicator, stream, {Kind::BROADCAST, from, to, count, type, root});
}

Result ncclSend(char* from, size_t count, Type type, int peer, void* communicator, void* stream) {
    return part(&Operation::sent, {peer, from, count * size_of(type)}, communicator, stream);
}

Result ncclRecv(char* to, size_t count, Type type, int peer, void* communicator, void* stream) {
    return part(&Operation::received, {peer, to, count * size_of(type)}, communicator, stream);
}

Result ncclGroupStart() {
    open = Open{true};
    return SUCCESS;
}

Result ncclGroupEnd() {
    if (!open.is_open) {
        return INVALID_USAGE;
    }
    Open group = std::exchange(open, Open{});
    return issue(group.communicator, group.stream, std::move(group.exchange));
}

Result ncclCommGetAsyncError(void* handle, Result* error) {
    std::shared_ptr<Communicator> communicator = find(handle);
    if (!communicator) {
        return INVALID_ARGUMENT;
    }
    std::lock_guard lock(communicator->group->mutex);
    *error = communicator->error;
    return SUCCESS;
}

// Waits for what the rank has begun, and then for the others.
Result ncclCommFinalize(void* handle) {
    std::shared_ptr<Communicator> communicator = find(handle);
    if (!communicator) {
        return INVALID_ARGUMENT;
    }
    Group& group = *communicator->group;
    {
        std::unique_lock lock(group.mutex);
        group.changed.wait(lock, [&] { return communicator->num_open == 0; });
    }
    group.meet(*communicator);
    return SUCCESS;
}

Result ncclCommDestroy(void* handle) {
    return take(handle) ? SUCCESS : INVALID_ARGUMENT;
}

// Ends what the rank has begun; what its peers wait for does not come any more.
Result ncclCommAbort(void* handle) {
    std::shared_ptr<Communicator> communicator = take(handle);
    if (!communicator) {
        return INVALID_ARGUMENT;
    }
    std::lock_guard lock(communicator->group->mutex);
    communicator->is_aborted = true;
    communicator->group->is_broken = true;
    communicator->group->changed.notify_all();
    return SUCCESS;
}

}  // extern "C"
