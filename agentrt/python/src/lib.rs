//! The Agent Kernel for Python. Whatever may block or takes long releases the interpreter's lock; nothing forks here.

// The macros of PyO3 make code that this lint does not like, and that is not ours.
#![allow(clippy::useless_conversion)]

use agent_kernel::explain::Checker;
use agent_kernel::{Access, Host};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// A policy document: what an agent may do. Immutable; what it does not state is denied, or has its default.
#[pyclass(frozen, eq, module = "gpve_agent_kernel")]
struct Policy {
    inner: agent_kernel::Policy,
    checker: Checker,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Policy {
    fn wrap(policy: Result<agent_kernel::Policy, agent_kernel::PolicyError>) -> PyResult<Self> {
        let inner = policy.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { checker: Checker::new(&inner), inner })
    }
}

#[pymethods]
impl Policy {
    /// Read a policy in TOML.
    #[new]
    fn new(toml: &str) -> PyResult<Self> {
        Self::wrap(agent_kernel::Policy::from_toml(toml))
    }

    /// Read a policy in JSON.
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<Self> {
        Self::wrap(agent_kernel::Policy::from_json(text))
    }

    /// Read a policy from a file: TOML, or JSON where the name ends in `.json`.
    #[staticmethod]
    fn from_file(path: std::path::PathBuf) -> PyResult<Self> {
        Self::wrap(agent_kernel::Policy::from_file(&path))
    }

    /// The policy that allows what both allow. What `other` does not state stays as it is.
    fn narrowed_by(&self, other: &Self) -> PyResult<Self> {
        Self::wrap(self.inner.narrowed_by(&other.inner))
    }

    /// Whether the policy lets an access pass: `allows("read", "/etc/passwd")`.
    fn allows(&self, verb: &str, object: &str) -> PyResult<bool> {
        self.checker.allows_text(verb, object).map_err(PyValueError::new_err)
    }

    fn _explain(&self, verb: &str, object: &str) -> PyResult<String> {
        let access = Access::parse(verb, object).map_err(PyValueError::new_err)?;
        Ok(serde_json::json!(agent_kernel::explain(&self.inner, &access)).to_string())
    }

    /// What this host would refuse to enforce is a ValueError; otherwise the plan, as JSON.
    fn compile(&self, py: Python<'_>) -> PyResult<String> {
        let plan = py.detach(|| agent_kernel::compile(&self.inner, &Host::probe()));
        let plan = plan.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(serde_json::json!(plan).to_string())
    }

    /// The document as TOML.
    fn to_toml(&self) -> String {
        self.inner.to_toml()
    }

    /// The document as JSON.
    fn to_json(&self) -> String {
        serde_json::json!(self.inner).to_string()
    }

    fn __repr__(&self) -> String {
        format!("Policy({:?})", self.inner.to_toml())
    }
}

#[pyfunction]
fn _enter(policy: &Policy) -> PyResult<String> {
    let applied = agent_kernel::enter(&policy.inner);
    applied.map(|applied| serde_json::json!(applied).to_string()).map_err(|error| PyOSError::new_err(error.to_string()))
}

#[pyfunction]
fn _report() -> String {
    serde_json::json!(agent_kernel::report()).to_string()
}

#[pyfunction]
fn _host(py: Python<'_>) -> String {
    serde_json::json!(py.detach(Host::probe)).to_string()
}

/// The JSON schema of the policy document.
#[pyfunction]
fn _schema() -> String {
    agent_kernel::Policy::json_schema().to_string()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Policy>()?;
    module.add_function(wrap_pyfunction!(_enter, module)?)?;
    module.add_function(wrap_pyfunction!(_report, module)?)?;
    module.add_function(wrap_pyfunction!(_host, module)?)?;
    module.add_function(wrap_pyfunction!(_schema, module)?)?;
    Ok(())
}
