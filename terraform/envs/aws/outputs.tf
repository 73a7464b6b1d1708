output "values" {
  description = "Values of the chart: terraform output -raw values > values.yaml"
  value       = module.sluice.values
}

output "cluster" {
  description = "What ../aws-release needs of the cluster."
  value = {
    name                  = module.eks.name
    endpoint              = module.eks.endpoint
    certificate_authority = module.eks.certificate_authority
    namespace             = var.namespace
  }
}

output "kafka" {
  description = "Bootstrap addresses, and the key that the principals' secrets must be under."
  value       = { bootstrap = module.kafka.bootstrap, kms_key_arn = module.kafka.kms_key_arn }
}

output "store_url" {
  description = "Without user and password: the Secrets store-decider and store-featurizer hold it with them."
  value       = module.valkey.url
}

output "registry" {
  description = "Where images are pushed."
  value       = module.registry.urls
}

output "buckets" {
  description = "Names, ARNs and keys."
  value       = module.storage.buckets
}

output "metrics" {
  description = "Where a Prometheus in the cluster sends its samples, and the topic of alarms."
  value       = { remote_write_url = module.observability.remote_write_url, alarms = module.observability.alarm_topic_arn }
}
