output "name" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "endpoint" {
  description = "Of the API server."
  value       = aws_eks_cluster.this.endpoint
}

output "certificate_authority" {
  description = "Of the API server, base64."
  value       = aws_eks_cluster.this.certificate_authority[0].data
}

output "pods_security_group_id" {
  description = "Of nodes and pods: who may speak to brokers and store."
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "pods_trust_policy" {
  description = "Assume-role policy of a pod's role (EKS Pod Identity)."
  value       = data.aws_iam_policy_document.pods.json
}
