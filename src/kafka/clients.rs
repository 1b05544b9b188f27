//! [`Clients`] on librdkafka: what the worker hands its loops.

use std::sync::Arc;

use lakeferry_api::{Budget, Clock, Config, Result};

use super::consumer::{self, ConsumerSpec};
use super::{Admin, Clients, Consumer, Producer, Subscription, admin, producer};

/// Makes clients of real clusters.
#[derive(Clone)]
pub struct KafkaClients {
    budget: Budget,
    clock: Arc<dyn Clock>,
}

impl KafkaClients {
    /// Consumers and producers pay what they buffer from `budget`.
    pub fn new(budget: Budget, clock: Arc<dyn Clock>) -> Self {
        Self { budget, clock }
    }
}

impl Clients for KafkaClients {
    fn consumer(&self, properties: &Config, subscription: &Subscription) -> Result<Box<dyn Consumer>> {
        consumer::open(ConsumerSpec {
            properties: properties.clone(),
            subscription: subscription.clone(),
            budget: self.budget.clone(),
            clock: Arc::clone(&self.clock),
        })
    }

    fn producer(&self, properties: &Config) -> Result<Arc<dyn Producer>> {
        producer::open(properties, self.budget.clone(), Arc::clone(&self.clock))
    }

    fn admin(&self, properties: &Config) -> Result<Arc<dyn Admin>> {
        admin::open(properties, Arc::clone(&self.clock))
    }
}
