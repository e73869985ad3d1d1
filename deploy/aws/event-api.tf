# The same Event API as event-api.yaml: IAM to publish, an API key to subscribe, one namespace, a role for its log.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.9"
    }
  }
}

variable "name" {
  type    = string
  default = "events"
}

variable "namespace" {
  description = "The first segment of the channels"
  type        = string
  default     = "orders"
}

variable "api_key_expires" {
  description = "When the subscribers' key ends (RFC 3339), 365 days from now at most"
  type        = string
}

variable "log_level" {
  type    = string
  default = "ERROR"
}

variable "log_days" {
  type    = number
  default = 30
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_iam_policy_document" "appsync" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["appsync.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

data "aws_iam_policy_document" "publish" {
  statement {
    actions   = ["appsync:EventPublish"]
    resources = ["${aws_appsync_api.events.api_arn}/channelNamespace/${aws_appsync_channel_namespace.events.name}"]
  }
}

resource "aws_iam_role" "log" {
  name_prefix        = "${var.name}-log-"
  assume_role_policy = data.aws_iam_policy_document.appsync.json
}

resource "aws_iam_role_policy_attachment" "log" {
  role       = aws_iam_role.log.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AWSAppSyncPushToCloudWatchLogs"
}

resource "aws_cloudwatch_log_group" "events" {
  name              = "/aws/appsync/apis/${aws_appsync_api.events.api_id}"
  retention_in_days = var.log_days
}

resource "aws_appsync_api" "events" {
  name = var.name

  event_config {
    auth_provider {
      auth_type = "AWS_IAM"
    }
    auth_provider {
      auth_type = "API_KEY"
    }
    connection_auth_mode {
      auth_type = "API_KEY"
    }
    connection_auth_mode {
      auth_type = "AWS_IAM"
    }
    # The key is in every browser: whoever has it may subscribe, and not publish.
    default_publish_auth_mode {
      auth_type = "AWS_IAM"
    }
    default_subscribe_auth_mode {
      auth_type = "API_KEY"
    }
    default_subscribe_auth_mode {
      auth_type = "AWS_IAM"
    }
    log_config {
      cloudwatch_logs_role_arn = aws_iam_role.log.arn
      log_level                = var.log_level
    }
  }
}

resource "aws_appsync_channel_namespace" "events" {
  api_id = aws_appsync_api.events.api_id
  name   = var.namespace
}

resource "aws_appsync_api_key" "subscribers" {
  api_id      = aws_appsync_api.events.api_id
  description = "For subscribers"
  expires     = var.api_key_expires
}

resource "aws_iam_policy" "publish" {
  name_prefix = "${var.name}-publish-"
  description = "Publishing to one namespace of one Event API, and nothing else"
  policy      = data.aws_iam_policy_document.publish.json
}

# Lines of bridge.toml.
output "bridge_endpoint" {
  value = "endpoint = \"https://${aws_appsync_api.events.dns["HTTP"]}/event\""
}

output "bridge_auth" {
  description = "The credentials need publish_policy_arn"
  value       = "auth = { type = \"iam\" }"
}

output "publish_policy_arn" {
  value = aws_iam_policy.publish.arn
}

# For a page. Terraform covers the key all the same: `terraform output -raw subscribers_key`.
output "realtime_domain" {
  value = aws_appsync_api.events.dns["REALTIME"]
}

output "subscribers_key" {
  value     = aws_appsync_api_key.subscribers.key
  sensitive = true
}
