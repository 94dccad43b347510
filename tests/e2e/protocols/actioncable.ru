# ActionCable by itself: who it is was told by the gate, and what is sent comes back.
require "action_cable"
require "logger"

class Connection < ActionCable::Connection::Base
  identified_by :user

  def connect
    self.user = request.headers["X-Forwarded-User"]
    reject_unauthorized_connection if user.nil?
  end
end

class CountChannel < ActionCable::Channel::Base
  def receive(data)
    transmit({ "number" => data["number"], "user" => user, "cookie" => connection.send(:request).headers["Cookie"] })
  end
end

ActionCable.server.config.tap do |config|
  config.logger = Logger.new(File::NULL)
  config.cable = { "adapter" => "async" }
  config.connection_class = -> { Connection }
  config.disable_request_forgery_protection = true
  config.mount_path = nil
end

run ActionCable.server
