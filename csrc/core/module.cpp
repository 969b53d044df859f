// The Python module trm_fast._C. Importing it registers the kernels with torch's dispatcher. Torch must be imported
// first.
#include <Python.h>

#include <exception>
#include <string>

#include "core/isa.h"
#include "core/peak.h"

namespace {

PyObject* cpu_path(PyObject*, PyObject*) { return PyUnicode_FromString(trm_fast::isa_name(trm_fast::current_isa())); }

PyObject* has_bfloat16(PyObject*, PyObject*) { return PyBool_FromLong(trm_fast::bfloat16_products() != nullptr); }

PyObject* prefers_bfloat16(PyObject*, PyObject*) { return PyBool_FromLong(trm_fast::prefers_bfloat16()); }

PyObject* set_cpu_path(PyObject*, PyObject* args) {
  const char* name = nullptr;
  if (!PyArg_ParseTuple(args, "s", &name)) return nullptr;
  try {
    trm_fast::set_isa(name);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* peak_flops(PyObject*, PyObject* args) {
  int bfloat16 = 0;
  long long threads = 0;
  if (!PyArg_ParseTuple(args, "pL", &bfloat16, &threads)) return nullptr;
  double flops = 0;
  std::string message;
  Py_BEGIN_ALLOW_THREADS;
  try {
    flops = trm_fast::peak_flops(bfloat16, threads);
  } catch (const std::exception& error) {
    message = error.what();
  }
  Py_END_ALLOW_THREADS;
  if (!message.empty()) {
    PyErr_SetString(PyExc_ValueError, message.c_str());
    return nullptr;
  }
  if (flops == 0) Py_RETURN_NONE;
  return PyFloat_FromDouble(flops);
}

PyMethodDef methods[] = {
    {"cpu_path", cpu_path, METH_NOARGS, "The instruction set of the CPU kernels, by name."},
    {"has_bfloat16", has_bfloat16, METH_NOARGS, "Whether that set has matrix products in bfloat16."},
    {"peak_flops", peak_flops, METH_VARARGS,
     "peak_flops(bfloat16, threads): the processor's peak in FLOP per second, measured; None if there is none."},
    {"prefers_bfloat16", prefers_bfloat16, METH_NOARGS, "Whether these are known to be faster than those in float32."},
    {"set_cpu_path", set_cpu_path, METH_VARARGS, "Sets the instruction set of the CPU kernels (for tests and checks)."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", "Compiled ops.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  try {
    trm_fast::current_isa();  // reports an invalid TRM_FAST_CPU at import
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
    return nullptr;
  }
  return PyModule_Create(&definition);
}
