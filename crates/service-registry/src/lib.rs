//! service-registry
