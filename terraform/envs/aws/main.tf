# One cell in one AWS region, whole. `terraform output -raw values` goes to the chart; the release itself
# is in ../aws-release, since no provider can be made from a cluster that is not there yet.

locals {
  tags = { app = "sluice", cell = var.region }
}

module "network" {
  source     = "../../modules/network"
  name       = var.name
  single_nat = var.sizes.single_nat
}

module "eks" {
  source         = "../../modules/eks"
  name           = var.name
  subnet_ids     = module.network.private_subnet_ids
  api_cidrs      = var.api_cidrs
  admins         = var.admins
  nodes          = var.sizes.nodes
  instance_types = var.sizes.instance_types
}

module "kafka" {
  source                    = "../../modules/kafka"
  name                      = var.name
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.private_subnet_ids
  client_security_group_ids = { pods = module.eks.pods_security_group_id }
  instance_type             = var.sizes.broker
  brokers_a_zone            = var.sizes.brokers_a_zone
  scram_secret_arns         = var.scram_secret_arns
}

module "valkey" {
  source                    = "../../modules/valkey"
  name                      = var.name
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.private_subnet_ids
  client_security_group_ids = { pods = module.eks.pods_security_group_id }
  node_type                 = var.sizes.store
  passwords                 = var.store_passwords
}

module "storage" {
  source = "../../modules/storage"
  name   = var.bucket_prefix
}

module "registry" {
  source = "../../modules/registry"
  name   = var.name
}

module "observability" {
  source             = "../../modules/observability"
  name               = var.name
  kafka_cluster_name = module.kafka.cluster_name
  kafka_brokers      = module.kafka.brokers
  store_nodes        = module.valkey.nodes
  alarm_emails       = var.alarm_emails
}

module "sluice" {
  source            = "../../modules/sluice"
  name              = var.name
  namespace         = var.namespace
  cluster_name      = module.eks.name
  pods_trust_policy = module.eks.pods_trust_policy
  region            = var.region
  environment       = var.environment
  buckets           = module.storage.buckets
  release           = var.release
  image             = { repository = module.registry.urls["sluice"], digest = var.image_digest }
  private_cidrs     = module.network.private_cidrs
  kafka = {
    bootstrap = module.kafka.bootstrap
    secrets   = { for one in ["decider-sync", "decider-stream", "featurizer", "archiver", "auditor", "topics"] : one => "kafka-${one}" }
  }
  store = { secrets = { decider = "store-decider", featurizer = "store-featurizer" } }
}
