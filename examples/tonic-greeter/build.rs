//! The code of the service in `greeter.proto`, without protoc: its methods are named here, and its messages
//! in `src/messages.rs`.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str| {
        let method = Method::builder().name(name).route_name(route).output_type("crate::messages::Greeting");
        method.input_type(format!("crate::messages::{input}")).codec_path("tonic_prost::ProstCodec")
    };
    let greeter = Service::builder()
        .name("Greeter")
        .package("greeter")
        .method(method("greet", "Greet", "Name").build())
        .method(method("greetings", "Greetings", "Series").server_streaming().build())
        .build();
    Builder::new().compile(&[greeter]);
}
