// C++17: what C frees by hand has an owner here, and a completion is any function. Copies a file, in
// poll(2) of its own.
//
//     c++ -std=c++17 raii.cpp $(pkg-config --cflags --libs laio)
//
// SPDX-License-Identifier: MIT OR Apache-2.0

#include <laio.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <poll.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace
{

int check(int ret, const char *what)
{
    if (ret < 0) {
        throw std::system_error(-ret, std::generic_category(), what);
    }
    return ret;
}

class File
{
  public:
    File(const char *path, int flags) : fd_(open(path, flags | O_CLOEXEC, 0666))
    {
        check(fd_ < 0 ? -errno : 0, path);
    }
    ~File()
    {
        close(fd_);
    }
    File(const File &) = delete;
    File &operator=(const File &) = delete;

    int fd() const
    {
        return fd_;
    }
    uint64_t size() const
    {
        struct stat stat = {};
        check(fstat(fd_, &stat) < 0 ? -errno : 0, "fstat");
        return static_cast<uint64_t>(stat.st_size);
    }

  private:
    int fd_;
};

// An event loop and the state that it serves. Destroyed in the other order than made: the state waits
// for what is outstanding, so declare it after what its requests refer to.
class Engine
{
  public:
    Engine() : loop_(laio_loop_new()), state_(laio_init(nullptr))
    {
        if (!loop_ || !state_) {
            throw std::runtime_error("no event loop or state");
        }
        laio_attach_aio_context(state_.get(), loop_.get());
        descriptor_ = check(laio_loop_get_fd(loop_.get()), "laio_loop_get_fd");
    }

    using Done = std::function<void(int)>;

    // `done` is called with 0 or a negative errno, once; what it refers to stays until then.
    void submit(int type, int fd, uint64_t offset, iovec &iov, Done done)
    {
        auto request = std::make_unique<Done>(std::move(done));
        check(laio_state_submit(state_.get(), fd, offset, &iov, 1, type, 0, 0, on_complete,
                                request.get()),
              "laio_state_submit");
        request.release(); // on_complete() has it, or has had it already
    }

    int descriptor() const
    {
        return descriptor_;
    }
    void turn()
    {
        laio_loop_poll(loop_.get(), false);
    }

  private:
    // C calls it, so no exception may leave it.
    static void on_complete(void *opaque, int ret) noexcept
    {
        std::unique_ptr<Done> done(static_cast<Done *>(opaque));
        (*done)(ret);
    }

    struct Free {
        void operator()(AioContext *loop) const
        {
            laio_loop_free(loop);
        }
        void operator()(LinuxAioState *state) const
        {
            laio_cleanup(state);
        }
    };
    std::unique_ptr<AioContext, Free> loop_;
    std::unique_ptr<LinuxAioState, Free> state_; // after the loop: it is freed first
    int descriptor_ = -1;
};

class Copier
{
  public:
    Copier(Engine &engine, const File &from, const File &to)
        : engine_(engine), from_(from), to_(to), size_(from.size())
    {
    }

    void run()
    {
        for (Slot &slot : slots_) {
            next(slot);
        }
        // Other descriptors of the program would stand beside it.
        pollfd ready = {engine_.descriptor(), POLLIN, 0};
        while (outstanding_ > 0) {
            if (poll(&ready, 1, -1) == 1) {
                engine_.turn();
            }
        }
        check(error_, "cannot copy");
    }

  private:
    struct Slot {
        std::array<char, 64 * 1024> memory;
        iovec iov;
        uint64_t offset;
    };

    // A block: read, then written, then the next.
    void next(Slot &slot)
    {
        if (error_ < 0 || next_ == size_) {
            return;
        }
        slot.offset = next_;
        slot.iov = {slot.memory.data(), std::min<uint64_t>(size_ - next_, slot.memory.size())};
        next_ += slot.iov.iov_len;
        transfer(QEMU_AIO_READ, from_, slot, [this, &slot] {
            transfer(QEMU_AIO_WRITE, to_, slot, [this, &slot] { next(slot); });
        });
    }

    template <typename Then> void transfer(int type, const File &file, Slot &slot, Then then)
    {
        outstanding_++;
        auto done = [this, then](int ret) {
            if (ret < 0) {
                error_ = ret;
            } else {
                then();
            }
            outstanding_--;
        };
        try {
            engine_.submit(type, file.fd(), slot.offset, slot.iov, done);
        } catch (const std::system_error &error) {
            done(-error.code().value());
        }
    }

    Engine &engine_;
    const File &from_, &to_;
    uint64_t size_, next_ = 0;
    unsigned outstanding_ = 0;
    int error_ = 0;
    std::array<Slot, 8> slots_ = {};
};

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
        return 1;
    }
    File from(argv[1], O_RDONLY);
    File to(argv[2], O_WRONLY | O_CREAT | O_TRUNC);
    Engine engine;
    auto copier = std::make_unique<Copier>(engine, from, to); // too large for a stack
    copier->run();
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
