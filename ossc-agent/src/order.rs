//! In which order the bytes of a model are likely to be wanted. Pure: values in, values out. The agent asks and
//! hands the answer to `fetch` as planned work; a wrong order costs time, never bytes.

mod default;
mod head;

pub use default::{default_plan, rest_of_head};
pub use head::{Head, head_len};
