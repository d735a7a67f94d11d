//! The providers that the features allow.

use rustls::crypto::CryptoProvider;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    #[cfg(feature = "ring")]
    Ring,
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

pub(crate) const PROVIDERS: &[Provider] = &[
    #[cfg(feature = "ring")]
    Provider::Ring,
    #[cfg(feature = "aws-lc-rs")]
    Provider::AwsLcRs,
];

impl Default for Provider {
    fn default() -> Self {
        PROVIDERS[0]
    }
}

pub(crate) fn provider(provider: Provider) -> CryptoProvider {
    match provider {
        #[cfg(feature = "ring")]
        Provider::Ring => rustls::crypto::ring::default_provider(),
        #[cfg(feature = "aws-lc-rs")]
        Provider::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
    }
}
