//! Certificates of members and of the operator.

use std::time::SystemTime;

use rcgen::{
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};

use super::inspect::{all, first, names_only, parse};
use super::{CertError, Issuer, LEAF_LIFE, Pair, make, params, renewal, validity};

const LEAF: &str = "the certificate";

/// A certificate for `uri`, with the chain up to the root, and its key.
pub fn leaf(issuer: &Issuer, uri: &str, now: SystemTime) -> Result<Pair, CertError> {
    let mut params = params(now, LEAF_LIFE)?;
    let end = issuer.ends()?;
    if end < now + LEAF_LIFE {
        params.not_after = end.into();
    }
    let short = uri.rsplit('/').next().unwrap_or(uri);
    params.distinguished_name.push(DnType::CommonName, short);
    let name = uri.try_into().map_err(make(LEAF))?;
    params.subject_alt_names = vec![SanType::URI(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().map_err(make(LEAF))?;
    let cert = params.signed_by(&key, &issuer.signer).map_err(make(LEAF))?;
    Ok(Pair {
        cert: format!("{}{}", cert.pem(), issuer.chain),
        key: key.serialize_pem(),
    })
}

/// Whether a leaf that was kept can stay: for this name, with its key, by the issuer as it is now,
/// and not in the last third of its life.
pub fn is_good(pair: &Pair, issuer: &Issuer, uri: &str, now: SystemTime) -> bool {
    let check = || -> Result<bool, CertError> {
        let key = KeyPair::from_pem(&pair.key).map_err(make(LEAF))?;
        let chain = all(LEAF, &pair.cert)?;
        let leaf = parse(LEAF, &chain[0])?;
        let above = first("the intermediate", &issuer.chain)?;
        let above_parsed = parse("the intermediate", &above)?;
        // A chain by an issuer that was certified anew is not wrong, but may end sooner.
        Ok(chain.get(1) == Some(&above)
            && names_only(&leaf, uri)
            && leaf.public_key().raw == key.subject_public_key_info()
            && leaf
                .verify_signature(Some(above_parsed.public_key()))
                .is_ok()
            && now < renewal(validity(&pair.cert)?))
    };
    check().unwrap_or(false)
}
