//! Many clients and many versions. The large form is one of the campaigns.

use integration_tests::tls;

#[test]
fn clients_outlive_five_versions() {
    tls::outlive(10, 100, 5);
}
