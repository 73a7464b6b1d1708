output "buckets" {
  description = "Name, ARN and key of each: archive, releases, log."
  value = {
    for name in local.buckets : name => {
      name        = aws_s3_bucket.this[name].bucket
      arn         = aws_s3_bucket.this[name].arn
      kms_key_arn = module.key[name].arn
    }
  }
}
