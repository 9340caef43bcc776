//! A person, or a pipe, at a program in a container: input in, output out, over the
//! runtime's streaming server.
//!
//! `session` is a connection, by `websocket` or `spdy`; `keys` and `status` are pure, `input` reads ours, `pump`
//! moves everything until an end. Only commands use it (`run`, `exec`), never a
//! supervising process.

pub mod input;
pub mod keys;
pub mod pump;
pub mod session;
pub mod spdy;
pub mod status;
pub mod websocket;
