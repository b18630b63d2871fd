//! stub
mod error;
mod value;
pub use error::{Error, ErrorKind, Result};
pub use value::Value;
