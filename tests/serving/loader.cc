// Loads a SavedModel as TF Serving's core does, and answers requests. No Python.
//
//   loader DIRECTORY REQUESTS ANSWERS [--no-xla]
//
// REQUESTS are messages, each after its length (uint64, as the machine has it): a
// `SignatureDef` whose `method_name` is the signature asked for, and whose
// `defaults` are the inputs. ANSWERS are the same with the outputs; a request that
// failed has a `method_name` "error: ...". `--no-xla` refuses what XLA compiles, as
// tensorflow_model_server does unless it is told otherwise.
//
// Prints milliseconds and megabytes, as "name value" lines.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session_options.h"

namespace tensorflow {
void DisableXlaCompilation();  // compiler/jit/flags.h, which wheels leave out
}

namespace tf = tensorflow;

double Milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

double ResidentMegabytes(const char* field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0) return std::stod(line.substr(strlen(field))) / 1e3;
  }
  return 0;
}

bool Read(std::istream& in, tf::SignatureDef* message) {
  uint64_t size;
  if (!in.read(reinterpret_cast<char*>(&size), sizeof(size))) return false;
  std::string bytes(size, '\0');
  in.read(bytes.data(), size);
  return message->ParseFromString(bytes);
}

void Write(std::ostream& out, const tf::SignatureDef& message) {
  std::string bytes = message.SerializeAsString();
  uint64_t size = bytes.size();
  out.write(reinterpret_cast<char*>(&size), sizeof(size));
  out.write(bytes.data(), size);
}

// Runs a request as TF Serving's RunPredict does: by the signature's tensor names,
// with its defaults for inputs that are left out.
absl::Status Run(const tf::SavedModelBundleLite& bundle, const tf::SignatureDef& request,
                 tf::SignatureDef* answer) {
  const auto& signatures = bundle.GetSignatures();
  auto found = signatures.find(request.method_name());
  if (found == signatures.end()) return absl::NotFoundError(request.method_name());
  std::vector<std::pair<std::string, tf::Tensor>> inputs;
  for (const auto& [name, info] : found->second.inputs()) {
    auto given = request.defaults().find(name);
    if (given == request.defaults().end()) {
      given = found->second.defaults().find(name);
      if (given == found->second.defaults().end()) {
        return absl::InvalidArgumentError("no input " + name);
      }
    }
    tf::Tensor tensor;
    if (!tensor.FromProto(given->second)) {
      return absl::InvalidArgumentError("no tensor: " + name);
    }
    inputs.emplace_back(info.name(), tensor);
  }
  std::vector<std::string> names, fetched;
  for (const auto& [name, info] : found->second.outputs()) {
    names.push_back(name);
    fetched.push_back(info.name());
  }
  std::vector<tf::Tensor> outputs;
  absl::Status status = bundle.GetSession()->Run(inputs, fetched, {}, &outputs);
  for (size_t i = 0; status.ok() && i < names.size(); ++i) {
    tf::TensorProto* proto = &(*answer->mutable_defaults())[names[i]];
    // Python reads the content of strings from their field only.
    if (outputs[i].dtype() == tf::DT_STRING) {
      outputs[i].AsProtoField(proto);
    } else {
      outputs[i].AsProtoTensorContent(proto);
    }
  }
  return status;
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  if (argc > 4 && !strcmp(argv[4], "--no-xla")) tf::DisableXlaCompilation();
  tf::SavedModelBundleLite bundle;
  double start = Milliseconds();
  absl::Status status = tf::LoadSavedModel(tf::SessionOptions(), tf::RunOptions(),
                                           argv[1], {"serve"}, &bundle);
  if (!status.ok()) {
    std::cerr << status.message() << "\n";
    return 1;
  }
  std::cout << "load_ms " << Milliseconds() - start << "\n";
  std::cout << "loaded_mb " << ResidentMegabytes("VmRSS:") << "\n";
  std::ifstream in(argv[2], std::ios::binary);
  std::ofstream out(argv[3], std::ios::binary);
  for (tf::SignatureDef request; Read(in, &request);) {
    tf::SignatureDef answer;
    start = Milliseconds();
    status = Run(bundle, request, &answer);
    std::cout << "run_ms " << Milliseconds() - start << "\n";
    answer.set_method_name(status.ok() ? request.method_name()
                                       : "error: " + std::string(status.message()));
    Write(out, answer);
  }
  std::cout << "peak_mb " << ResidentMegabytes("VmHWM:") << "\n";
  return 0;
}
