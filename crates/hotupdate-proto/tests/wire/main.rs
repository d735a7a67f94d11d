//! What is written on a link and on the control socket: frames, and the words in them.

mod arbitrary;
mod bulk;
mod document;
mod frame;
mod words;
