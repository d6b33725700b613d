//! Why a handshake failed, for people: TLS says it in the words of its specification.

use rustls::{AlertDescription, CertificateError, Error};

/// What is wrong with the other side, or with us in its eyes.
pub(super) fn plain(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    let text = match inner {
        Some(Error::InvalidCertificate(why)) => return certificate(why),
        Some(Error::NoCertificatesPresented) => "it shows no certificate",
        Some(Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "it belongs to another group: it does not know the authority of our certificate"
        }
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "it wants a certificate and got none"
        }
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "it says that our certificate has expired: renew it, or set the clocks"
        }
        Some(Error::AlertReceived(alert)) => return format!("it refused us ({alert:?})"),
        Some(Error::InvalidMessage(_)) => "it does not speak TLS",
        _ => return error.to_string(),
    };
    text.to_owned()
}

fn certificate(why: &CertificateError) -> String {
    let text = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it belongs to another group: its certificate is of another authority"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it, or set the clocks"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: set the clocks"
        }
        CertificateError::Other(other) => return other.0.to_string(),
        other => return format!("its certificate cannot be used ({other})"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_apart_in_plain_words() {
        let text = |error| plain(&std::io::Error::other(error));
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(text(unknown).contains("another group"));
        let alert = Error::AlertReceived(AlertDescription::UnknownCA);
        assert!(text(alert).contains("another group"));
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        assert!(text(expired).contains("clocks"));
        assert_eq!(plain(&std::io::Error::other("reset")), "reset");
    }
}
