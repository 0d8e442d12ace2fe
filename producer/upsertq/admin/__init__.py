"""What an operator looks at: status, health, the audit."""
