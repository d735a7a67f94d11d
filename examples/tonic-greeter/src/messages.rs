//! The messages of `greeter.proto`.

/// The name that is greeted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Name {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// Numbered greetings are asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Series {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// The last number that the client has.
    #[prost(uint64, tag = "2")]
    pub(crate) after: u64,
    /// How many; 0 is without an end.
    #[prost(uint64, tag = "3")]
    pub(crate) count: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) every_ms: u64,
}

/// A greeting.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Greeting {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// 0 for one that is alone.
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    /// The version that has said it.
    #[prost(string, tag = "3")]
    pub(crate) version: String,
}
