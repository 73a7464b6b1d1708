output "arn" {
  description = "Of the key."
  value       = aws_kms_key.this.arn
}

output "id" {
  description = "Of the key."
  value       = aws_kms_key.this.id
}
