#pragma once

#include <string>

namespace broken {

// Runs the kernel of this name on `values` [count], one block of `count` threads.
void run(const std::string& name, int* values, int count);

}  // namespace broken
