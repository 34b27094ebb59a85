//! Block formats: layout, quantisers and decoding, as properties and golden vectors.

mod corners;
mod golden;
mod gptq;
mod layout;
mod properties;
mod searches;
mod support;
