// A CUDA device for a CPU build of torch: it has no memory and runs nothing. Streams and events
// are simulated in Python (streams.py); torch itself asks this guard for the current ones.
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>

namespace at {
namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::EventFlag;
using c10::Stream;

thread_local int64_t current_stream = 0;
std::atomic<int64_t> next_stream{1};
std::atomic<int64_t> next_event{1};

Stream stream_of(int64_t id) {
  return Stream(Stream::UNSAFE, Device(DeviceType::CUDA, 0), id);
}

struct FakeGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return stream_of(current_stream); }
  Stream getDefaultStream(Device) const override { return stream_of(0); }
  Stream getNewStream(Device, int) const override { return stream_of(next_stream++); }
  Stream getStreamFromGlobalPool(Device device, bool) const override {
    return getNewStream(device, 0);
  }
  Stream exchangeStream(Stream stream) const override {
    auto before = stream_of(current_stream);
    current_stream = stream.id();
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const Stream&, const DeviceIndex, const EventFlag) const override {
    if (!*event) *event = reinterpret_cast<void*>(next_event++);
  }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
};

c10::impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, new FakeGuard());

struct FakeHooks final : CUDAHooksInterface {
  explicit FakeHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return 0; }
};

// What CUDA's own choice does for a causal call in bfloat16: the first kernel that is allowed.
int64_t choose_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                         double, bool, std::optional<double>, bool) {
  auto& context = globalContext();
  if (context.userEnabledFlashSDP()) return static_cast<int64_t>(SDPBackend::flash_attention);
  if (context.userEnabledCuDNNSDP()) return static_cast<int64_t>(SDPBackend::cudnn_attention);
  return static_cast<int64_t>(SDPBackend::math);
}

// torch looks its hooks up by the name CUDAHooks.
using CUDAHooks = FakeHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace

namespace native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &choose_attention)
}  // namespace native
}  // namespace at
