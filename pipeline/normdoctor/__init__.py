"""The norm doctor for any torch module: measure, check, prove, say."""
