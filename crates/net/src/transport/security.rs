//! The security upgrade of TCP connections: TLS is preferred, Noise is the fallback.

use std::io;

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::tls;
use super::tls_stream::TlsStream;
use crate::error::NetError;

const TLS: &str = "/tls/1.0.0";
const NOISE: &str = "/noise";

/// Encrypted connection with an authenticated peer.
pub(super) type Secured<C> = Either<TlsStream<C>, noise::Output<C>>;

/// Offered upgrades, in order of preference.
#[derive(Clone)]
pub(super) struct Config {
    tls: tls::Config,
    noise: noise::Config,
}

impl Config {
    pub(super) fn new(keypair: &Keypair) -> Result<Self, NetError> {
        let noise = noise::Config::new(keypair)
            .map_err(|error| NetError::Setup { what: "Noise key", source: error.into() })?;
        Ok(Self { tls: tls::Config::new(keypair)?, noise })
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = [&'static str; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [TLS, NOISE]
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if protocol == TLS {
            return async move {
                let (peer, stream) = self.tls.accept(socket).await?;
                Ok((peer, Either::Left(stream)))
            }
            .boxed();
        }
        async move {
            let (peer, stream) =
                self.noise.upgrade_inbound(socket, NOISE).await.map_err(io::Error::other)?;
            Ok((peer, Either::Right(stream)))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if protocol == TLS {
            return async move {
                let (peer, stream) = self.tls.connect(socket).await?;
                Ok((peer, Either::Left(stream)))
            }
            .boxed();
        }
        async move {
            let (peer, stream) =
                self.noise.upgrade_outbound(socket, NOISE).await.map_err(io::Error::other)?;
            Ok((peer, Either::Right(stream)))
        }
        .boxed()
    }
}
