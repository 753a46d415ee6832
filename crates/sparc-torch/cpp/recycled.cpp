// Tensors whose memory is used again by the next one of the same size.
//
// A batch of images is tens of megabytes, which the C library maps anew each time: the system then clears every page at
// its first touch, which takes longer than writing the numbers.

#include "border.h"

#include <ATen/ops/from_blob.h>

#include <mutex>
#include <utility>

namespace {

// Memory that nobody uses, the oldest first. It is never destroyed: tensors may be freed when the program ends.
class Pool {
 public:
  // Blocks that are kept, as many batches as wait between a loader and its user, about; and their bytes, but for the
  // newest block, which is kept whatever its size.
  static constexpr size_t KEPT = 4;
  static constexpr size_t KEPT_BYTES = size_t{1} << 30;
  // Of vector registers and cache lines.
  static constexpr size_t ALIGNMENT = 64;

  static Pool& instance() {
    static Pool* pool = new Pool();
    return *pool;
  }

  void* take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = free_.rbegin(); block != free_.rend(); ++block) {
        if (block->first == bytes) {
          void* data = block->second;
          free_.erase(std::next(block).base());
          return data;
        }
      }
    }
    void* data = nullptr;
    if (posix_memalign(&data, ALIGNMENT, bytes) != 0) throw std::bad_alloc();
    // Whoever writes may read before: never what nobody has written.
    std::memset(data, 0, bytes);
    return data;
  }

  void put(void* data, size_t bytes) {
    // Giving memory back takes time, in which nobody else shall wait.
    void* surplus[KEPT + 1];
    size_t n_surplus = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      free_.emplace_back(bytes, data);
      size_t kept = 0;
      for (const auto& block : free_) kept += block.first;
      while (free_.size() > KEPT || (free_.size() > 1 && kept > KEPT_BYTES)) {
        kept -= free_.front().first;
        surplus[n_surplus++] = free_.front().second;
        free_.erase(free_.begin());
      }
    }
    for (size_t i = 0; i < n_surplus; ++i) std::free(surplus[i]);
  }

 private:
  // A tensor's end must not throw: there is room for all from the beginning.
  Pool() { free_.reserve(KEPT + 1); }

  std::mutex mutex_;
  std::vector<std::pair<size_t, void*>> free_;
};

}  // namespace

extern "C" char* sparc_recycled(const int64_t* shape, size_t dimensions, at::Tensor** result) {
  return sparc::guarded([&] {
    int64_t count = 1;
    for (size_t i = 0; i < dimensions; ++i) {
      TORCH_CHECK(shape[i] > 0, "a side of ", shape[i], " in a shape");
      TORCH_CHECK(!__builtin_mul_overflow(count, shape[i], &count) && count < (int64_t{1} << 60), "a shape beyond memory");
    }
    size_t bytes = static_cast<size_t>(count) * sizeof(float);
    void* data = Pool::instance().take(bytes);
    auto release = [bytes](void* memory) { Pool::instance().put(memory, bytes); };
    *result = new at::Tensor(
        at::from_blob(data, at::IntArrayRef(shape, dimensions), release, at::TensorOptions().dtype(at::kFloat)));
  });
}
