// Enough of CUDA's driver for streams and events, on the host's memory: a stream is a thread that does one thing after
// another, and nobody waits for it but who asks to.
//
// It is stricter than the driver where that shows mistakes: every call needs a current context, and handles that are
// gone are errors. What this cannot show: what two calls cost, and which of them wait for a whole GPU.
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace {

// The driver's numbers for these.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
};

constexpr int NUM_DEVICES = 8;

struct Context {};
Context contexts[NUM_DEVICES];
thread_local Context* current = nullptr;

// A point in a stream, passed once.
class Mark {
public:
    void pass() {
        std::lock_guard lock(mutex);
        is_passed = true;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return is_passed; });
    }
    bool passed() {
        std::lock_guard lock(mutex);
        return is_passed;
    }

private:
    std::mutex mutex;
    std::condition_variable changed;
    bool is_passed = false;
};

// What the thread of a stream shares with those that give it work.
class Queue {
public:
    void push(std::function<void()> task) {
        std::lock_guard lock(mutex);
        tasks.push_back(std::move(task));
        changed.notify_one();
    }
    // After the tasks there are; nothing may be pushed any more.
    void close() {
        std::lock_guard lock(mutex);
        is_closed = true;
        changed.notify_one();
    }
    void run() {
        while (std::function<void()> task = next()) {
            task();
        }
    }

private:
    std::function<void()> next() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return is_closed || !tasks.empty(); });
        if (tasks.empty()) {
            return nullptr;
        }
        std::function<void()> task = std::move(tasks.front());
        tasks.pop_front();
        return task;
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    bool is_closed = false;
};

struct Stream {
    Context* context;
    std::shared_ptr<Queue> queue = std::make_shared<Queue>();

    std::shared_ptr<Mark> mark() const {
        auto mark = std::make_shared<Mark>();
        queue->push([mark] { mark->pass(); });
        return mark;
    }
};

struct Event {
    Context* context;
    // Null until it is recorded.
    std::shared_ptr<Mark> mark = nullptr;
};

// The handles given out and not yet taken back.
template <class T>
class Handles {
public:
    void* add(T value) {
        std::lock_guard lock(mutex);
        return *live.insert(new T(std::move(value))).first;
    }
    // Calls `use` with what the handle stands for.
    template <class Use>
    Result with(void* handle, Use use) {
        std::lock_guard lock(mutex);
        if (current == nullptr) {
            return INVALID_CONTEXT;
        }
        auto found = live.find(static_cast<T*>(handle));
        return found == live.end() ? INVALID_HANDLE : use(**found);
    }
    Result remove(void* handle) {
        std::lock_guard lock(mutex);
        if (live.erase(static_cast<T*>(handle)) == 0) {
            return INVALID_HANDLE;
        }
        delete static_cast<T*>(handle);
        return SUCCESS;
    }

private:
    std::mutex mutex;
    std::set<T*> live;
};

Handles<Stream> streams;
Handles<Event> events;

}  // namespace

extern "C" {

Result cuInit(unsigned) {
    return SUCCESS;
}

Result cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal < NUM_DEVICES ? SUCCESS : INVALID_DEVICE;
}

Result cuDeviceGetAttribute(int* value, int, int) {
    *value = 1;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &contexts[device];
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int) {
    return SUCCESS;
}

Result cuCtxGetCurrent(void** context) {
    *context = current;
    return SUCCESS;
}

Result cuCtxSetCurrent(void* context) {
    current = static_cast<Context*>(context);
    return SUCCESS;
}

Result cuCtxSynchronize() {
    return current == nullptr ? INVALID_CONTEXT : SUCCESS;
}

Result cuStreamCreate(void** handle, unsigned) {
    if (current == nullptr) {
        return INVALID_CONTEXT;
    }
    Stream stream{current};
    std::thread([queue = stream.queue] { queue->run(); }).detach();
    *handle = streams.add(std::move(stream));
    return SUCCESS;
}

// Returns at once, as the driver does: what is in the stream is done all the same.
Result cuStreamDestroy_v2(void* handle) {
    Result closed = streams.with(handle, [](Stream& stream) {
        stream.queue->close();
        return SUCCESS;
    });
    return closed == SUCCESS ? streams.remove(handle) : closed;
}

Result cuStreamGetCtx(void* handle, void** context) {
    return streams.with(handle, [&](Stream& stream) {
        *context = stream.context;
        return SUCCESS;
    });
}

Result cuStreamSynchronize(void* handle) {
    std::shared_ptr<Mark> mark;
    Result found = streams.with(handle, [&](Stream& stream) {
        mark = stream.mark();
        return SUCCESS;
    });
    if (mark) {
        mark->wait();
    }
    return found;
}

Result cuStreamWaitEvent(void* handle, void* event, unsigned) {
    std::shared_ptr<Mark> mark;
    Result found = events.with(event, [&](Event& event) {
        mark = event.mark;
        return SUCCESS;
    });
    if (found != SUCCESS || !mark) {
        return found;
    }
    return streams.with(handle, [&](Stream& stream) {
        stream.queue->push([mark] { mark->wait(); });
        return SUCCESS;
    });
}

Result cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    return streams.with(handle, [&](Stream& stream) {
        stream.queue->push([=] { function(data); });
        return SUCCESS;
    });
}

Result cuEventCreate(void** handle, unsigned) {
    if (current == nullptr) {
        return INVALID_CONTEXT;
    }
    *handle = events.add(Event{current});
    return SUCCESS;
}

Result cuEventDestroy_v2(void* handle) {
    return events.remove(handle);
}

Result cuEventRecord(void* handle, void* stream) {
    return events.with(handle, [&](Event& event) {
        return streams.with(stream, [&](Stream& stream) {
            if (stream.context != event.context) {
                return INVALID_HANDLE;
            }
            event.mark = stream.mark();
            return SUCCESS;
        });
    });
}

Result cuEventQuery(void* handle) {
    return events.with(handle, [](Event& event) {
        return event.mark && !event.mark->passed() ? NOT_READY : SUCCESS;
    });
}

Result cuEventSynchronize(void* handle) {
    std::shared_ptr<Mark> mark;
    Result found = events.with(handle, [&](Event& event) {
        mark = event.mark;
        return SUCCESS;
    });
    if (mark) {
        mark->wait();
    }
    return found;
}

Result cuGetErrorName(Result, const char** name) {
    *name = "CUDA_ERROR";
    return SUCCESS;
}

Result cuGetErrorString(Result, const char** text) {
    *text = "the emulation refuses the call";
    return SUCCESS;
}

}  // extern "C"
