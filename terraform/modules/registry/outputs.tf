output "urls" {
  description = "Of each repository: the chart's image.repository."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}
