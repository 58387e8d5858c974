// The kernels of the .cu files, run on the CPU, as a module with the entries of pydream._C.cuda;
// and kernels that are wrong, which the harness must notice.
#include "bindings.h"
#include "broken.h"
#include "common/device.h"
#include "common/launch.h"

namespace pydream {

int device_count() { return 1; }
bool has_code_for(int device) { return device == 0; }
int driver_version() { return 0; }
int runtime_version() { return 0; }

}  // namespace pydream

PYBIND11_MODULE(_cuda_on_cpu, m) {
  pydream::bind_cuda(m);
  m.def("set_order", [](const std::string& name) {
    using cuda_on_cpu::Order;
    cuda_on_cpu::set_order(name == "backward"   ? Order::backward
                           : name == "shuffled" ? Order::shuffled
                                                : Order::forward);
  });
  m.def("broken", [](const std::string& name, uintptr_t values, int count) {
    broken::run(name, reinterpret_cast<int*>(values), count);
  });
}
