output "values" {
  description = "Values of the chart, YAML: `helm install -f`. What is left to say: access, trust, policy."
  value       = yamlencode(local.values)
}

output "keystore_key_arn" {
  description = "Of the key that wraps the keystore's root keys."
  value       = module.key.arn
}

output "role_arns" {
  description = "Of each service that has one."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
