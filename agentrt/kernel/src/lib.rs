//! The Agent Kernel.
